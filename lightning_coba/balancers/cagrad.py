from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_coba.balancers.checks import check_number
from lightning_coba.balancers.torchjd_adapter import GradientBalancer, quiet_solver


@dataclass(frozen=True)
class CAGrad(GradientBalancer):
    r"""Near the mean gradient, step where the task that gains least gains most: conflict-averse gradient descent.

    Use it to help the worst task in every step while the mean loss still converges; c = 0 is uniform weights. A record
    costs K backward passes and a small cone program on the CPU (some milliseconds, and a second once, for the import
    of cvxpy): it waits for the device.

    .. math::
        d = g_0 + \frac{c\,\|g_0\|}{\|g_\omega\|}\, g_\omega, \qquad
        \omega = \arg\min_{\omega \,\in\, \text{simplex}} g_\omega^T g_0 + c\,\|g_0\| \|g_\omega\|

    :math:`g_0` is the mean of the gradients of the tasks' training losses, :math:`g_\omega = \sum_i \omega_i g_i`, c
    the radius around :math:`g_0` within which d is sought. So :math:`w_i \propto 1/K + c\,\omega_i
    \|g_0\|/\|g_\omega\|`: never negative.

    Args:
        c: >= 0, below 1 for convergence of the mean (0.4: the paper's choice on NYU-v2; LibMTL has 0.5).

    Raises:
        ValueError: if ``c`` is not a finite number >= 0.

    Example:
        >>> from lightning_coba import replay
        >>> weights = replay(CAGrad(), gramian=[[[1.0, -1.0], [-1.0, 4.0]]])[-1]
        >>> bool(weights[0] > weights[1])  # the mean gradient does nothing for the first task
        True

    References:
        Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, Algorithm 1; rule:
        torchjd 0.18, ``CAGrad`` (solver: Clarabel through cvxpy).

    **Differs from** the paper and torchjd:
        * weights sum to 1; in the paper they sum to 1 + c :math:`\|g_0\|/\|g_\omega\|`, and the authors' code divides
          by 1 + c^2. ``scale`` of the state is the sum.
        * where :math:`g_\omega` is 0 (a Pareto-stationary point) or the solver fails, weights are uniform, which is the
          step along :math:`g_0`; torchjd takes no step.
        * a task without a gradient (absent, zero, NaN) is left out and gets 1/K.
    """

    c: float = 0.4

    solvers: ClassVar[tuple[str, ...]] = ("cvxpy", "clarabel")

    def __post_init__(self) -> None:
        """Check the domain."""
        check_number("CAGrad.c", self.c, at_least=0)

    def _solve(self, gramian: Tensor, record: int) -> Tensor:
        from cvxpy.error import SolverError
        from torchjd.aggregation import CAGradWeighting

        try:
            with quiet_solver():
                return CAGradWeighting(c=self.c)(gramian)
        except (SolverError, TypeError):  # the latter where the solver gave None
            return gramian.new_zeros(len(gramian))
