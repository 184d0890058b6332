"""What a balancing callback may ask of a module; everything here is optional but what the error says is needed."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lightning_coba.functional import TaskLosses


@runtime_checkable
class ReportsTaskLosses(Protocol):
    """A module whose held-out losses can be asked for batch by batch: what the step cadence needs."""

    def task_losses(self, batch: Any) -> TaskLosses | dict[str, Tensor]:
        """Return each task's loss sum and count on a batch, or a dict of task means; no side effects."""
        ...
