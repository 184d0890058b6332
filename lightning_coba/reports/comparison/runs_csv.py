"""Write the runs of a comparison as a table for other programs."""

import csv
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning_coba.runs.collection import Run

#: Columns before those of the results, and behind them.
FIRST_COLUMNS = ("suite", "system", "method", "label", "seed", "status", "task")
LAST_COLUMNS = ("seconds_per_step", "validation_seconds", "error", "folder")


def write_runs_csv(path: str | os.PathLike[str], runs: Iterable[Run], labels: Mapping[Path, str]) -> None:
    """Write one row per run and task: numbers that read back to the same bits, empty where unknown.

    The primary result has two columns, ``<key>_before`` and ``<key>_after``; each other result and the objective have
    one that is called by its key. A part of a result that is no task has a row of its own.

    Args:
        path: File to write.
        runs: Complete or not.
        labels: Run folder -> its method, told apart from the same method with other settings.
    """
    runs = list(runs)
    primary = [f"{run.primary}_{when}" for run in runs for when in ("before", "after")]
    others = sorted({key for run in runs for key in run.others})
    objectives = [run.objective.key for run in runs]
    columns = [*FIRST_COLUMNS, *primary, *others, "best_step", "steps", *objectives, *LAST_COLUMNS]
    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(columns)), restval="", lineterminator="\n")
        writer.writeheader()
        for run in runs:
            names = ("suite", "system", "method", "seed", "status", "error", "folder")
            row = {name: getattr(run, name) for name in names} | {"label": labels.get(run.folder, "")}
            row |= {name: _cell(getattr(run, name)) for name in ("steps", "seconds_per_step", "validation_seconds")}
            row[run.objective.key] = _cell(run.objective.value)
            parts = [part for result in run.results.values() for part in result.values]
            for task in dict.fromkeys([*run.tasks, *parts]) or [""]:
                results = {
                    f"{run.primary}_before": run.before.values.get(task),
                    f"{run.primary}_after": run.after.values.get(task),
                    "best_step": run.best_step(task),
                    **{key: result.values.get(task) for key, result in run.others.items()},
                }
                writer.writerow(row | {"task": task} | {name: _cell(value) for name, value in results.items()})


def _cell(value: float | None) -> str:
    if value is None or math.isnan(value := float(value)):
        return ""
    return str(int(value)) if value.is_integer() else repr(value)
