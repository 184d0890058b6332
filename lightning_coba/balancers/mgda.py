from dataclasses import dataclass

from torch import Tensor

from lightning_coba.balancers.checks import check_count, check_number
from lightning_coba.balancers.torchjd_adapter import GradientBalancer


@dataclass(frozen=True)
class MGDA(GradientBalancer):
    r"""Step along the shortest vector that the tasks' gradients can be mixed into.

    Use it when no task may get worse: the direction lowers every task's loss, or is 0 where none does. It favours
    tasks with small gradients, which are often those that have converged. A record costs K backward passes and up to
    ``num_iterations`` small steps on the CPU, some milliseconds: it waits for the device.

    .. math::
        \min_w \Big\| \sum_i w_i g_i \Big\|^2 = w^T G w \quad \text{on the simplex}, \qquad G_{ij} = g_i^T g_j

    :math:`g_i` is the gradient of task i's training loss; Frank-Wolfe iterations from the uniform weights.

    Args:
        num_iterations: Frank-Wolfe iterations, at most (torchjd: 100).
        tolerance: stop when a step is shorter, as a share of the way (torchjd: 1e-3).

    Raises:
        ValueError: if an argument is outside its domain.

    Example:
        >>> from lightning_coba import replay
        >>> replay(MGDA(), gramian=[[[1.0, 0.0], [0.0, 4.0]]])[-1]
        tensor([0.8000, 0.2000], dtype=torch.float64)

    References:
        Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018, Algorithm 2; Désidéri,
        "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", Comptes Rendus Mathématique 2012;
        rule: torchjd 0.18, ``MGDA``.

    **Differs from** the paper and torchjd:
        * gradients are of the trainable parameters, not of a shared representation (the paper's MGDA-UB).
        * a task without a gradient (absent, zero, NaN) is left out and gets 1/K: its zero would be the shortest vector
          and stop the others.
        * LibMTL starts at the best pair and iterates 250 times: other digits where K > 2.
    """

    num_iterations: int = 100
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        """Check the domains."""
        check_count("MGDA.num_iterations", self.num_iterations)
        check_number("MGDA.tolerance", self.tolerance, above=0)

    def _solve(self, gramian: Tensor, record: int) -> Tensor:
        from torchjd.aggregation import MGDAWeighting

        return MGDAWeighting(epsilon=self.tolerance, max_iters=self.num_iterations)(gramian)
