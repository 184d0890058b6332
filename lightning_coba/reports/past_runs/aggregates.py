"""Columns that are the mean or the sum of the others: a name alone does not tell them from a task."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

#: Names that may stand for all tasks together; such a column is left out where its numbers say so too.
_AGGREGATES = frozenset({"mean", "avg", "average", "total", "sum", "all", "overall", "macro", "micro"})
_ROUNDING = 1e-3  # an aggregate equals the mean or the sum of the others to this share
MOST_TASKS = 8  # a message writes so many out


def without_aggregates(
    merged: Mapping[float, Mapping[str, float]], columns: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return the columns by task without the mean and the sum of the others, and what to say of them.

    Args:
        merged: step -> task -> loss.
        columns: task -> column.
    """
    named = [task for task in columns if task.strip().lower() in _AGGREGATES]
    kinds = {
        task: _aggregate_kind(task, [other for other in named if other != task], merged, columns) for task in named
    }
    tasks = [task for task in columns if not kinds.get(task)]
    shown = ",".join(tasks if len(tasks) <= MOST_TASKS else [*tasks[:2], "..."])
    notes = [
        f"Left out: `{columns[task]}`, taken for the {kind} of the others; --tasks {shown},{task} includes it."
        if kind
        else f"`{columns[task]}` counts as a task: its losses are not the mean or the sum of the others in all "
        "complete records. --tasks can leave it out."
        for task, kind in kinds.items()
    ]
    return {task: columns[task] for task in tasks}, notes


def _aggregate_kind(
    task: str, rivals: Sequence[str], merged: Mapping[float, Mapping[str, float]], columns: Mapping[str, str]
) -> str:
    """Return "mean" or "sum", which a column is of the others in every complete record, or ""."""
    logged = {name for record in merged.values() for name in record}
    plain = [other for other in columns if other in logged and other not in (task, *rivals)]
    for count in range(len(rivals) + 1):  # of columns named like aggregates, some may be tasks
        for counted in combinations(rivals, count):
            others = [*plain, *counted]
            records = [record for record in merged.values() if {task, *others} <= record.keys()]
            if len(others) < 2 or not records:
                continue
            losses = np.array([[record[other] for other in others] for record in records])
            own = np.array([record[task] for record in records])
            for kind, values in (("mean", losses.mean(axis=1)), ("sum", losses.sum(axis=1))):
                if np.allclose(own, values, rtol=_ROUNDING, atol=0):
                    return kind
    return ""
