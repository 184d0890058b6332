from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lightning_coba.balancers.torchjd_adapter import GradientBalancer


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
