"""What a setting of a balancer did to the weights in a replay."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_coba.simplex.records import BalanceTable

#: A task is raised or damped where its mean weight differs from 1/K by more than this share of it.
NOTICEABLE = 0.1


@dataclass(frozen=True, eq=False)
class SettingFinding:
    """Say what a setting would have done.

    Attributes:
        name: Name of the setting.
        first_record: Number of the first record whose weights are not all equal; 0 = there was none.
        first_step: The step of that record.
        final: ``[K]`` weights after the last record.
        mean: ``[K]`` weights, averaged over the records from the first active one on; 1/K where there was none.
        largest: The largest weight that any task had.
        largest_task: Which task that was.
        mean_change: Summed absolute change of the weights from record to record, averaged over the active records.
        divergence_factor: At the end; NaN where the method has none.
        raised: Tasks whose mean weight is more than 10 % above 1/K, the largest first.
        damped: Tasks whose mean weight is more than 10 % below 1/K, the smallest first.
    """

    name: str
    first_record: int
    first_step: int
    final: NDArray[np.float64]
    mean: NDArray[np.float64]
    largest: float
    largest_task: str
    mean_change: float
    divergence_factor: float
    raised: Sequence[str]
    damped: Sequence[str]


def setting_finding(name: str, result: BalanceTable) -> SettingFinding:
    """Return what a setting did, of one result of `replay_settings`."""
    weights, tasks = result.weight, result.tasks
    share = 1 / len(tasks)
    active = np.abs(weights - share).max(axis=1) > 1e-9
    first = int(active.argmax())  # 0 where none is
    mean = weights[first:].mean(axis=0)
    changes = np.abs(np.diff(weights, axis=0)).sum(axis=1)[max(first - 1, 0) :]
    order = np.argsort(mean, kind="stable")
    return SettingFinding(
        name=name,
        first_record=first + 1 if active.any() else 0,
        first_step=int(result.steps[first]) if active.any() else 0,
        final=weights[-1],
        mean=mean,
        largest=float(weights.max()),
        largest_task=tasks[int(weights.max(axis=0).argmax())],
        mean_change=float(changes.mean()) if changes.size else 0.0,
        divergence_factor=float(result.divergence_factor[-1]),
        raised=[tasks[k] for k in order[::-1] if mean[k] > share * (1 + NOTICEABLE)],
        damped=[tasks[k] for k in order if mean[k] < share * (1 - NOTICEABLE)],
    )
