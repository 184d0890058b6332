import torch
from torch import Tensor

from lightning_coba.functional import TaskLosses


class LossTotals:
    """Add up per-task losses on the device: three small additions a batch, no host synchronisation.

    Args:
        num_tasks: K; several measures of the tasks may stand side by side.
        device: where the losses are.

    Attributes:
        values: ``[2, K + 1]``, float64 (float32 on a device without it): sums and counts of the tasks; in the last
            column the sum of the weighted losses and 0.
    """

    def __init__(self, num_tasks: int, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.values = torch.zeros(2, num_tasks + 1, dtype=dtype, device=device)
        self._sums, self._counts, self._loss = self.values[0, :-1], self.values[1, :-1], self.values[0, -1]

    def add(self, losses: TaskLosses, loss: Tensor | None = None) -> None:
        """Add a batch's sums and counts ``[K]``, and its weighted loss, a scalar."""
        self._sums.add_(losses.sums.detach())
        self._counts.add_(losses.counts)
        if loss is not None:
            self._loss.add_(loss.detach())
