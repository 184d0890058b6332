"""Where each task stands at the end of a run, by its held-out losses: what is a trend, and what is noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, inf, log, nan, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.trend import LEVEL, trend_of

#: Changes of a loss below this share of it are called none.
TOLERANCE = 0.01
FEWEST_TREND_RECORDS = 3
#: With fewer records than this, a trend that is not told from noise may well be one.
TELLING_RECORDS = 5

State = Literal["improving", "flat", "diverging", "unknown"]


@dataclass(frozen=True)
class TaskFinding:
    """Say how a task fared in a run; NaN and 0 = not known.

    Attributes:
        task: Its name.
        state: Of its loss over the last quarter of its records or the last five: "improving" or "diverging" where the
            fitted change is more than 1 % of the loss and told from noise (Student's t test, 5 % for both together),
            else "flat"; "unknown" with fewer than 3 records, or fewer than 5 that change by more than 1 %.
        first: V(0), the loss before training or, where that is not known, of the first record.
        lowest: The lowest loss of all records.
        last: Loss of the last record.
        best_record: Number of the record with the lowest loss.
        best_step: The step of that record.
        has_turned: Whether it overfitted: it ended more than 1 % above its lowest loss and does not improve again, and
            either it is diverging or noise alone would not lift it so far.
        is_noise: Whether its records scatter as much as they differ at all, and show no trend at the end.
    """

    task: str
    state: State = "unknown"
    first: float = nan
    lowest: float = nan
    last: float = nan
    best_record: int = 0
    best_step: int = 0
    has_turned: bool = False
    is_noise: bool = False

    @property
    def last_ratio(self) -> float:
        """Last loss / V(0)."""
        return self.last / self.first if self.first else nan

    @property
    def rise(self) -> float:
        """How far the last loss lies above the lowest, as a share of this; inf where the lowest alone is 0."""
        above = self.last - self.lowest
        return above / abs(self.lowest) if self.lowest else inf if above > 0 else 0.0


def task_findings(table: LossTable) -> list[TaskFinding]:
    """Return how each task fared, in task order.

    Example:
        >>> losses = [[2.0, 2.0], [1.8, 1.0], [1.6, 1.3], [1.4, 1.6], [1.2, 1.9]]
        >>> for found in task_findings(LossTable(["code", "qa"], [1, 2, 3, 4, 5], losses)):
        ...     print(found.task, found.state, found.best_record, round(found.rise, 2))
        code improving 5 0.0
        qa diverging 2 0.9
    """
    return [_task_finding(table, k) for k in range(len(table.tasks))]


def _task_finding(table: LossTable, k: int) -> TaskFinding:
    there = np.flatnonzero(np.isfinite(table.losses[:, k]))
    if not there.size:
        return TaskFinding(table.tasks[k])
    losses = table.losses[there, k]
    best = int(losses.argmin())
    lowest, above = float(losses[best]), losses[-1] - losses[best]
    state = _state(there, losses)
    noise = _scatter(losses)
    extreme = sqrt(2 * log(there.size))  # so many deviations the lowest of T records lies below the others by chance
    explained = state != "diverging" and above <= (extreme + 2) * noise
    turned = above > TOLERANCE * abs(lowest) and state in ("flat", "diverging") and not explained
    return TaskFinding(
        task=table.tasks[k],
        state=state,
        first=float(table.first_losses[k]),
        lowest=lowest,
        last=float(losses[-1]),
        best_record=int(there[best]) + 1,
        best_step=int(table.steps[there[best]]),
        has_turned=bool(turned),
        is_noise=bool(state == "flat" and not turned and np.ptp(losses) <= 2 * (extreme + 1) * noise),
    )


def _scatter(losses: NDArray[np.float64]) -> float:
    """Return the standard deviation of single records about a smooth course, which differences take away."""
    orders = range(1, min(len(losses), 4))
    deviations = (np.median(np.abs(np.diff(losses, order))) / 0.6745 / sqrt(comb(2 * order, order)) for order in orders)
    return float(min(deviations, default=0.0))


def _state(x: NDArray[np.intp], losses: NDArray[np.float64]) -> State:
    """Return where a loss is heading, by lines through its last records.

    A quarter of a short run is too few records for a t test to see anything in, so the last five are looked at too.
    """
    if len(x) < FEWEST_TREND_RECORDS:
        return "unknown"
    counts = sorted({max(FEWEST_TREND_RECORDS, round(len(x) / 4)), min(TELLING_RECORDS, len(x))})
    changes = []
    for count in counts:
        found = trend_of(x[-count:], losses[-count:])
        changes.append(found.slope * (x[-1] - x[-count]))
        if abs(changes[-1]) > TOLERANCE * abs(losses[-count:].mean()) and found.exceeds_noise(LEVEL / len(counts)):
            return "diverging" if changes[-1] > 0 else "improving"
    few = len(x) < TELLING_RECORDS and abs(changes[0]) > TOLERANCE * abs(losses[-counts[0] :].mean())
    return "unknown" if few else "flat"


def having(found: Sequence[TaskFinding], state: State) -> list[TaskFinding]:
    """Return the tasks that are in a state."""
    return [one for one in found if one.state == state]
