"""What a balancing callback may ask of a module; everything here is optional but what the error says is needed."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from lightning_coba.functional import TaskLosses


@runtime_checkable
class ReportsTaskLosses(Protocol):
    """A module whose losses can be asked for batch by batch: what the step cadence and FAMO need."""

    def task_losses(self, batch: Any) -> TaskLosses | dict[str, Tensor]:
        """Return each task's loss sum and count on a batch, or a dict of task means; no side effects."""
        ...


@runtime_checkable
class SeedsForward(Protocol):
    """A module whose random numbers in a training forward are a function of the micro-batch alone.

    A forward that is repeated (FAMO's, after the step) is seeded with this, and so sees the same dropout. For any other
    module the random state from before the batch is restored.
    """

    def seed_forward(self, micro_batch: int) -> None:
        """Seed all generators that a forward draws from, for micro-batch number ``micro_batch`` of the run."""
        ...
