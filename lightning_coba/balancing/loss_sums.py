"""Task losses added up in float64, over batches and then over ranks."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import float64_device, moved
from lightning_coba.functional import TaskLosses, standard_errors, task_means


class MeasuredLosses(NamedTuple):
    """Losses of a whole pass or draw, the same on all ranks.

    Attributes:
        losses: Mean loss of each task, float64 ``[K]``.
        present: Which tasks have one, bool ``[K]``.
        errors: Standard error of each mean, float64 ``[K]``; NaN where it is not known.
    """

    losses: Tensor
    present: Tensor
    errors: Tensor

    def signals(self) -> dict[str, Tensor]:
        """Return what :class:`~lightning_coba.balancers.base.Observation` has of them, by name."""
        return {"losses": self.losses, "losses_se": self.errors}


class LossSums:
    """Add up batches without waiting for the device.

    Args:
        num_tasks: K.
        device: Device of the module; a device without float64 is replaced by the CPU.
    """

    def __init__(self, num_tasks: int, device: torch.device) -> None:
        # Rows: sums, counts, the three kinds of squares, number of rows.
        self._totals = torch.zeros(6, num_tasks, dtype=torch.float64, device=float64_device(device))

    def add(self, losses: TaskLosses, task: int | None = None) -> None:
        """Add the losses of a batch: of all tasks ``[K]``, or of one task ``[1]``."""
        sums, counts = moved(losses.sums, self._totals), moved(losses.counts, self._totals)
        if losses.squares is None or losses.rows is None:
            # From here on the task's standard error is not known.
            squares = torch.where(counts > 0, torch.nan, 0.0).expand(4, -1)
        else:
            squares = torch.cat([moved(losses.squares, self._totals), moved(losses.rows, self._totals)[None]])
        where = slice(None) if task is None else slice(task, task + 1)
        self._totals[:, where] += torch.cat([torch.stack([sums, counts]), squares])

    def measured(self, strategy: Any) -> MeasuredLosses:
        """Return the means over all ranks; costs one all-reduce of 6K numbers."""
        totals = strategy.reduce(self._totals.clone(), reduce_op="sum")
        losses = TaskLosses(totals[0], totals[1], totals[2:5], totals[5])
        return MeasuredLosses(task_means(losses), losses.counts > 0, standard_errors(losses))
