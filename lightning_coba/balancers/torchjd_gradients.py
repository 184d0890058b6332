"""Methods on the inner products of the tasks' gradients that need no solver."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from lightning_coba.balancers.checks import check_count, check_number
from lightning_coba.balancers.torchjd_adapter import GradientBalancer, drawing


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
        num_iterations: of Frank-Wolfe, at most (torchjd: 100).
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


@dataclass(frozen=True)
class PCGrad(GradientBalancer):
    r"""Take out of each task's gradient what conflicts with another task's: gradient surgery.

    Use it when gradients point against each other; without conflicts the weights are uniform. A record costs K
    backward passes and O(K^3) operations on the CPU: it waits for the device.

    .. math::
        g_i \leftarrow g_i - \frac{g_i^T g_j}{\|g_j\|^2}\, g_j \quad \text{where } g_i^T g_j < 0,
        \text{ for all } j \ne i \text{ in random order}

    :math:`g_i` is the gradient of task i's training loss. The weights are those of the original gradients in the sum of
    the projected ones: never negative.

    Args:
        seed: of the orders (ours: 0). The orders of record t are a pure function of (seed, t): all ranks agree, a
            resume goes on with the same orders, and the global generators stay as they are.

    Raises:
        ValueError: if ``seed`` is not an integer >= 0.

    Example:
        >>> from lightning_coba import replay
        >>> replay(PCGrad(), gramian=[[[1.0, -1.0], [-1.0, 4.0]]])[-1]  # of g_1 a quarter of g_2 is taken out
        tensor([0.6154, 0.3846], dtype=torch.float64)

    References:
        Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Algorithm 1; rule: torchjd 0.18,
        ``PCGrad``.

    **Differs from** the paper and torchjd:
        * weights sum to 1; the paper adds the projected gradients up, which is a K times larger step. ``scale`` of the
          state is the sum.
        * own random orders; torchjd's come from the global generator.
        * a task without a gradient (absent, zero, NaN) is left out and gets 1/K; torchjd divides by its 0.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        """Check the domain."""
        check_count("PCGrad.seed", self.seed, at_least=0)

    def _solve(self, gramian: Tensor, record: int) -> Tensor:
        from torchjd.aggregation import PCGradWeighting

        with drawing(self.seed, record):
            return PCGradWeighting()(gramian)


@dataclass(frozen=True)
class IMTLG(GradientBalancer):
    r"""Step so that the update has the same projection on every task's gradient: the gradient half of IMTL.

    Use it when no task may dominate by the size of its gradient. Weights may be negative. A record costs K backward
    passes and a pseudo-inverse of a K x K matrix on the CPU: it waits for the device.

    .. math::
        d^T \frac{g_i}{\|g_i\|} = d^T \frac{g_j}{\|g_j\|}, \quad d = \sum_i w_i g_i
        \qquad\Longrightarrow\qquad w \propto G^{+} \big(\|g_1\|, \dots, \|g_K\|\big)^T

    :math:`g_i` is the gradient of task i's training loss, :math:`G^+` the pseudo-inverse of the Gramian
    :math:`G_{ij} = g_i^T g_j`.

    Example:
        >>> from lightning_coba import replay
        >>> replay(IMTLG(), gramian=[[[1.0, 0.0], [0.0, 4.0]]])[-1]
        tensor([0.6667, 0.3333], dtype=torch.float64)

    References:
        Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, the gradient balance; the form with the
        pseudo-inverse: Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232; rule:
        torchjd 0.18, ``IMTLG``.

    **Differs from** the paper and torchjd:
        * alone: the paper scales the losses first, which is :class:`~lightning_coba.balancers.IMTLL`.
        * weights are divided by the sum of their absolute values; in the paper they sum to 1, which is the same where
          none is negative, and lets them grow without bound where gradients oppose each other.
        * the paper's inverse of differences is singular where two gradients coincide; the pseudo-inverse is not.
        * gradients that cancel out (their sum below torchjd's 1e-12) are weighted alike; torchjd takes no step.
        * a task without a gradient (absent, zero, NaN) is left out and gets 1/K.
    """

    signed: ClassVar[bool] = True

    def _solve(self, gramian: Tensor, record: int) -> Tensor:
        from torchjd.aggregation import IMTLGWeighting

        return IMTLGWeighting()(gramian)


@dataclass(frozen=True)
class AlignedMTL(GradientBalancer):
    r"""Step along the gradients after their principal components have been made equally long.

    Use it when gradients conflict and differ in size: it conditions the mix, so that no direction that tasks share
    dominates. Weights may be negative. A record costs K backward passes and an eigendecomposition of a K x K matrix
    on the CPU: it waits for the device.

    .. math::
        G = V \Lambda V^T, \qquad
        w = \sqrt{\lambda} \; V \Lambda^{-1/2} V^T \, \big(\tfrac1K, \dots, \tfrac1K\big)^T

    G is the Gramian of the gradients of the tasks' training losses; components whose eigenvalue is rounding noise are
    left out. :math:`\lambda` sets the length of the aligned components; the weights are normalised after, so it
    moves ``scale`` of the state alone.

    Args:
        scale_mode: :math:`\lambda` = the smallest eigenvalue, ``"min"`` (paper, torchjd), the ``"median"``, or the
            mean, ``"rmse"`` (the authors' code).

    Raises:
        ValueError: if ``scale_mode`` is not one of the three.

    Example:
        >>> from lightning_coba import replay
        >>> replay(AlignedMTL(), gramian=[[[1.0, 0.0], [0.0, 4.0]]])[-1]
        tensor([0.6667, 0.3333], dtype=torch.float64)

    References:
        Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023, Algorithm 1; rule:
        torchjd 0.18, ``AlignedMTL``.

    **Differs from** the paper and torchjd:
        * weights are divided by the sum of their absolute values.
        * no preference vector: the callback's ``prior`` says which task matters more.
        * a task without a gradient (absent, zero, NaN) is left out and gets 1/K.
    """

    scale_mode: Literal["min", "median", "rmse"] = "min"

    signed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the domain."""
        if self.scale_mode not in ("min", "median", "rmse"):
            raise ValueError(f'`AlignedMTL.scale_mode` must be "min", "median" or "rmse"; got {self.scale_mode!r}.')

    def _solve(self, gramian: Tensor, record: int) -> Tensor:
        from torchjd.aggregation import AlignedMTLWeighting

        return AlignedMTLWeighting(scale_mode=self.scale_mode)(gramian)
