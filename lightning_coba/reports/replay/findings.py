"""What a replay says: where each task stands at the end of its run, and what a balancer would have done about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_coba.reports.past_runs.reading import LossTable
from lightning_coba.reports.runs import BalanceTable

#: Changes of a loss below this share of it are called none.
TOLERANCE = 0.01
#: A task is raised or damped where its mean weight differs from 1/K by more than this share of it.
NOTICEABLE = 0.1
FEWEST_TREND_RECORDS = 3

State = Literal["improving", "flat", "diverging", "unknown"]


@dataclass(frozen=True)
class TaskFinding:
    """Say how a task fared in the run.

    Attributes:
        task: its name.
        state: of its loss over the last quarter of its records: "improving" or "diverging" where the fitted change is
            more than 1 % of the loss and twice its standard error, else "flat"; "unknown" with fewer than 3 records.
        best_record: number of the record with its lowest loss.
        best_step: the step of that record.
        last_ratio: last loss / V(0).
        rise: last loss / lowest loss - 1.
    """

    task: str
    state: State
    best_record: int
    best_step: int
    last_ratio: float
    rise: float

    @property
    def has_turned(self) -> bool:
        """Whether its loss ended noticeably above its lowest."""
        return self.rise > TOLERANCE and self.state != "improving"


@dataclass(frozen=True, eq=False)
class SettingFinding:
    """Say what a setting would have done.

    Attributes:
        name: of the setting.
        first_record: number of the first record whose weights are not all equal; 0 = there was none.
        final: ``[K]`` weights after the last record.
        mean: ``[K]`` weights, averaged over the records from the first active one on; 1/K where there was none.
        largest: the largest weight that any task had.
        largest_task: which task that was.
        mean_change: summed absolute change of the weights from record to record, averaged over the active records.
        divergence_factor: at the end; NaN where the method has none.
        raised: tasks whose mean weight is more than 10 % above 1/K, the largest first.
        damped: tasks whose mean weight is more than 10 % below 1/K, the smallest first.
    """

    name: str
    first_record: int
    final: NDArray[np.float64]
    mean: NDArray[np.float64]
    largest: float
    largest_task: str
    mean_change: float
    divergence_factor: float
    raised: Sequence[str]
    damped: Sequence[str]


def task_findings(table: LossTable) -> list[TaskFinding]:
    """Return how each task fared, in task order.

    Example:
        >>> losses = [[2.0, 2.0], [1.8, 1.0], [1.6, 1.2], [1.4, 1.5], [1.2, 1.9]]
        >>> for found in task_findings(LossTable(["code", "qa"], [1, 2, 3, 4, 5], losses)):
        ...     print(found.task, found.state, found.best_record, round(found.rise, 2))
        code improving 5 0.0
        qa diverging 2 0.9
    """
    return [_task_finding(table, k) for k in range(len(table.tasks))]


def _task_finding(table: LossTable, k: int) -> TaskFinding:
    losses = table.losses[:, k]
    there = np.flatnonzero(np.isfinite(losses))
    if not there.size:
        return TaskFinding(table.tasks[k], "unknown", 0, 0, np.nan, np.nan)
    best, last = there[losses[there].argmin()], there[-1]
    rise = losses[last] / losses[best] - 1 if losses[best] > 0 else np.nan
    return TaskFinding(
        task=table.tasks[k],
        state=_state(there, losses[there]),
        best_record=int(best) + 1,
        best_step=int(table.steps[best]),
        last_ratio=float(table.ratios[last, k]),
        rise=float(rise),
    )


def _state(x: NDArray[np.intp], losses: NDArray[np.float64]) -> State:
    """Return where a loss is heading, by a line through its last quarter."""
    count = max(FEWEST_TREND_RECORDS, round(len(x) / 4))
    if len(x) < FEWEST_TREND_RECORDS:
        return "unknown"
    x, losses = x[-count:], losses[-count:]
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ losses) / spread
    residuals = losses - losses.mean() - slope * centred
    error = np.sqrt(residuals @ residuals / (count - 2) / spread)
    change = slope * (x[-1] - x[0])
    if abs(change) <= TOLERANCE * abs(losses.mean()) or abs(slope) < 2 * error:
        return "flat"
    return "diverging" if change > 0 else "improving"


def setting_finding(name: str, result: BalanceTable) -> SettingFinding:
    """Return what a setting did, of one result of `replay_settings`."""
    weights, tasks = result.weight, result.tasks
    share = 1 / len(tasks)
    active = np.abs(weights - share).max(axis=1) > 1e-9
    first = int(active.argmax()) if active.any() else len(weights)
    moving = weights[first:]
    mean = moving.mean(axis=0) if len(moving) else np.full(len(tasks), share)
    changes = np.abs(np.diff(weights, axis=0)).sum(axis=1)[max(first - 1, 0) :]
    order = np.argsort(mean, kind="stable")
    return SettingFinding(
        name=name,
        first_record=first + 1 if active.any() else 0,
        final=weights[-1],
        mean=mean,
        largest=float(weights.max()),
        largest_task=tasks[int(weights.max(axis=0).argmax())],
        mean_change=float(changes.mean()) if changes.size else 0.0,
        divergence_factor=float(result.divergence_factor[-1]),
        raised=[tasks[k] for k in order[::-1] if mean[k] > share * (1 + NOTICEABLE)],
        damped=[tasks[k] for k in order if mean[k] < share * (1 - NOTICEABLE)],
    )
