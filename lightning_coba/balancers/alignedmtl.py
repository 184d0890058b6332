from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from lightning_coba.balancers.torchjd_adapter import GradientBalancer
from lightning_coba.errors import UserError


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
            raise UserError(f'`AlignedMTL.scale_mode` must be "min", "median" or "rmse"; got {self.scale_mode!r}.')

    def _solve(self, gramian: Tensor, record: int) -> Tensor:
        from torchjd.aggregation import AlignedMTLWeighting

        return AlignedMTLWeighting(scale_mode=self.scale_mode)(gramian)
