from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_coba.balancers.checks import check_number
from lightning_coba.balancers.torchjd_adapter import GradientBalancer


@dataclass(frozen=True)
class UPGrad(GradientBalancer):
    r"""Project each task's gradient to where it conflicts with no task, and take the mean.

    Use it as the conflict-free method with the fewest surprises: no task's loss rises (to first order), and larger
    gradients count for more, as in the plain mean. Without conflicts the weights are uniform. A record costs K backward
    passes and K small quadratic programs on the CPU (well under a millisecond each): it waits for the device.

    .. math::
        w = \sum_i v_i, \qquad v_i = \arg\min_{v \,\ge\, e_i/K} v^T G\, v, \qquad G_{ij} = g_i^T g_j

    :math:`g_i` is the gradient of task i's training loss, :math:`e_i` the i-th unit vector: :math:`v_i` are the weights
    of :math:`g_i/K` projected onto the cone of directions that have no negative product with any gradient. The weights
    are never negative.

    Args:
        regularization: added to the diagonal of G, as a share of its trace (torchjd: 1e-4). It keeps the quadratic
            programs solvable where gradients are nearly dependent.

    Raises:
        ValueError: if ``regularization`` is not a finite number > 0.

    Example:
        >>> from lightning_coba import replay
        >>> replay(UPGrad(), gramian=[[[1.0, 0.5], [0.5, 4.0]]])[-1]  # no conflict
        tensor([0.5000, 0.5000], dtype=torch.float64)

    References:
        Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232, 2024; rule: torchjd
        0.18, ``UPGrad`` (solver: quadprog through qpsolvers).

    **Differs from** the paper and torchjd:
        * weights sum to 1; theirs is at least 1. ``scale`` of the state is the sum.
        * no preference vector: the callback's ``prior`` says which task matters more.
        * a task without a gradient (absent, zero, NaN) is left out and gets 1/K. Where the solver fails, weights are
          uniform.
    """

    regularization: float = 1e-4

    solvers: ClassVar[tuple[str, ...]] = ("qpsolvers", "quadprog")

    def __post_init__(self) -> None:
        """Check the domain."""
        check_number("UPGrad.regularization", self.regularization, above=0)

    def _solve(self, gramian: Tensor, record: int) -> Tensor:
        from qpsolvers.exceptions import QPError
        from torchjd.aggregation import UPGradWeighting
        from torchjd.linalg import QuadprogProjector

        try:
            return UPGradWeighting(projector=QuadprogProjector(reg_eps=self.regularization))(gramian)
        except (QPError, ValueError):
            return gramian.new_zeros(len(gramian))
