from dataclasses import dataclass

from torch import Tensor

from lightning_coba.balancers.checks import check_count
from lightning_coba.balancers.torchjd_adapter import GradientBalancer, drawing


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
        seed: seed of the orders (ours: 0). The orders of record t are a pure function of (seed, t): all ranks agree, a
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
