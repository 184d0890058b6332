"""What a replay says: where each task stands at the end of its run, and what a balancer would have done about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, log, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.simplex.records import BalanceTable

#: Changes of a loss below this share of it are called none: what rose by more, and by more than noise, has overfitted.
#: The page of a run calls a task burnt out later, from ``run_page.diagnosis.BURNT_OUT`` on, whatever the noise.
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
        rise: how far the last loss lies above the lowest, as a share of this; inf where the lowest alone is 0.
        has_turned: whether it overfitted: it ended more than 1 % above its lowest loss and does not improve again, and
            either it is diverging or noise alone would not lift it so far.
        is_noise: whether its records scatter as much as they differ at all, and show no trend at the end.
    """

    task: str
    state: State
    best_record: int
    best_step: int
    last_ratio: float
    rise: float
    has_turned: bool = False
    is_noise: bool = False


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
    lowest, above = abs(losses[best]), losses[last] - losses[best]
    state = _state(there, losses[there])
    noise = _scatter(losses[there])
    extreme = sqrt(2 * log(there.size))  # so many deviations the lowest of T records lies below the others by chance
    explained = state != "diverging" and above <= (extreme + 2) * noise
    return TaskFinding(
        task=table.tasks[k],
        state=state,
        best_record=int(best) + 1,
        best_step=int(table.steps[best]),
        last_ratio=float(table.ratios[last, k]),
        rise=float(above / lowest) if lowest > 0 else np.inf if above > 0 else 0.0,
        has_turned=bool(above > TOLERANCE * lowest and state in ("flat", "diverging") and not explained),
        is_noise=bool(state == "flat" and np.ptp(losses[there]) <= 2 * (extreme + 1) * noise),
    )


def _scatter(losses: NDArray[np.float64]) -> float:
    """Return the standard deviation of single records about a smooth course, which differences take away."""
    orders = range(1, min(len(losses), 4))
    deviations = (np.median(np.abs(np.diff(losses, order))) / 0.6745 / sqrt(comb(2 * order, order)) for order in orders)
    return float(min(deviations, default=0.0))


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
