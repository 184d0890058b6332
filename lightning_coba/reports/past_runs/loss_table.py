"""The held-out losses of a past run as a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from lightning_coba.errors import UserError
from lightning_coba.reports.past_runs.rows import number

if TYPE_CHECKING:
    from lightning_coba.balancers import CoBa


@dataclass(frozen=True, eq=False)
class LossTable:
    """Hold the held-out losses of a past run, one row per record.

    Args:
        tasks: The K task names.
        steps: ``[T]`` int64, the optimizer step (or whatever the source counts) of each record.
        losses: ``[T, K]`` float64; NaN where a task is absent.
        source: Where they came from, for titles.
        initial: ``[K]`` V(0), measured before training; None, or NaN entries = the task's first record stands in.
        balancer: The settings that the run was trained with; None where it had none, or it is not known.
        weights: ``[T, K]`` weights that the run was trained with, after each record; None where not known.
        notes: What was read, what was left out and what was put together, one sentence each.

    Raises:
        ValueError: The shapes disagree, or there is no record.

    Example:
        >>> table = LossTable(["code", "qa"], [50, 100], [[1.2, 2.7], [1.1, float("nan")]])
        >>> table.num_records, table.ratios.round(3).tolist()
        (2, [[1.0, 1.0], [0.917, nan]])
    """

    tasks: Sequence[str]
    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    source: str = ""
    initial: NDArray[np.float64] | None = None
    balancer: "CoBa | None" = None
    weights: NDArray[np.float64] | None = None
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Take lists as arrays and check the shapes."""
        for name, kind in (("steps", np.int64), ("losses", np.float64), ("initial", np.float64)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        shape = (len(self.steps), len(self.tasks))
        given = self.losses.shape, shape[1:] if self.initial is None else self.initial.shape
        if not all(shape) or given != (shape, shape[1:]):
            raise UserError(
                "`LossTable` must hold a loss per step and task, at least one of each, and one V(0) per task, so "
                f"{shape} and {shape[1:]}; got {given[0]} and {given[1]}.",
                "Give as many of each.",
            )

    @property
    def num_records(self) -> int:
        """T, the number of records."""
        return len(self.steps)

    @property
    def first_losses(self) -> NDArray[np.float64]:
        """``[K]`` V(0) of each task: measured before training where known, else its first loss; NaN where none is."""
        there = np.isfinite(self.losses)
        first = np.where(there.any(axis=0), self.losses[there.argmax(axis=0), np.arange(len(self.tasks))], np.nan)
        return first if self.initial is None else np.where(np.isnan(self.initial), first, self.initial)

    @property
    def ratios(self) -> NDArray[np.float64]:
        """``[T, K]`` losses / V(0)."""
        return self.losses / self.first_losses

    def with_initial(self, initial: Mapping[str, float] | str) -> Self:
        """Return the table with given losses before training.

        Args:
            initial: Task -> V(0), or the same as text, ``"code=1.4,qa=2.9"``; other tasks keep theirs.

        Raises:
            ValueError: A name is no task, or a value is not finite and > 0.
        """
        typed = [part.rpartition("=")[::2] for part in initial.split(",")] if isinstance(initial, str) else initial
        given = {task.strip(): number(value) for task, value in dict(typed).items()}
        for task, value in given.items():
            if task not in self.tasks or value is None or not 0 < value < math.inf:
                raise UserError(
                    f"`initial` must give a finite loss > 0 of each task it names ({', '.join(self.tasks)}); got "
                    f"{initial}.",
                    "Type TASK=LOSS,TASK=LOSS.",
                )
        known = [math.nan] * len(self.tasks) if self.initial is None else self.initial
        merged = [given.get(task, before) for task, before in zip(self.tasks, known, strict=True)]
        return replace(self, initial=np.array(merged, dtype=np.float64))

    @property
    def is_measured(self) -> bool:
        """Whether every V(0) was measured before training, and not taken from the first record."""
        return self.initial is not None and bool(np.isfinite(self.initial).all())
