"""The tables of a replay: two for its page, two as files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_coba.reports.findings import TOLERANCE, TaskFinding
from lightning_coba.reports.formats import DASH, listed, number
from lightning_coba.reports.page import PageTable
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.replay.setting_findings import NOTICEABLE, SettingFinding
from lightning_coba.simplex.records import PER_TASK_COLUMNS, BalanceTable

#: More tasks than this have their final weights in the figure and the files alone.
MOST_WEIGHT_COLUMNS = 12
_READING = {
    "from record": "The first record after which the weights were not all equal, and its step.",
    "change": "Summed absolute change of the weights from one record to the next, on average: how restless they are.",
    "DF": "Divergence factor at the end: the share of the relative score (RCS) in the weights; the absolute score "
    "(ACS) has the rest.",
    "raised, damped": f"Tasks whose weight was on average more than {NOTICEABLE:.0%} above or below the equal share.",
}


def tasks_table(found: Sequence[TaskFinding]) -> PageTable:
    """Return one row per task: where its loss began, was lowest and ended."""
    columns: dict[str, list[str]] = {
        "task": [one.task for one in found],
        "V(0)": [number(one.first, ".4g") for one in found],
        "last loss / V(0)": [number(one.last_ratio) for one in found],
        "lowest at record": [str(one.best_record or DASH) for one in found],
        "step": [str(one.best_step) if one.best_record else DASH for one in found],
        "since its lowest": [number(one.rise, "+.1%") for one in found],
        "at the end": [str(one.state) for one in found],
    }
    caption = (
        f"At the end: by lines through the last quarter of the records and the last five; flat = it changes by "
        f"{TOLERANCE:.0%} or less, or by no more than noise explains (Student's t test at 5%)."
    )
    return PageTable.of("Tasks", columns, caption)


def settings_table(table: LossTable, settings: Sequence[SettingFinding]) -> PageTable:
    """Return one row per setting: when it began, the weights it ended with, whom it raised and damped."""
    tasks = table.tasks if len(table.tasks) <= MOST_WEIGHT_COLUMNS else []
    times = len(table.tasks)  # a weight as a multiple of the equal share
    columns: dict[str, list[str]] = {
        "setting": [one.name for one in settings],
        "from record": [
            f"{one.first_record} (step {one.first_step})" if one.first_record else "never" for one in settings
        ],
        **{task: [f"{times * one.final[k]:.2f}x" for one in settings] for k, task in enumerate(tasks)},
        "largest weight": [f"{times * one.largest:.2f}x {one.largest_task}" for one in settings],
        "change": [number(one.mean_change) for one in settings],
        "DF": [number(one.divergence_factor, ".2f") for one in settings],
        "raised": [listed(one.raised, 4) or DASH for one in settings],
        "damped": [listed(one.damped, 4) or DASH for one in settings],
    }
    caption = "What each setting would have done. Weights are multiples of the equal share"
    caption += "; the columns of the tasks are those after the last record." if tasks else "."
    return PageTable.of("Settings", columns, caption, reading=_READING)


def write_weights(file: Path, results: Mapping[str, BalanceTable]) -> None:
    """Write one row per setting, record and task; a number that is not known is empty."""
    rows = [
        {
            "setting": name,
            "record": record,
            "step": result.steps[t],
            "task": task,
            **{column: getattr(result, column)[t, k] for column in PER_TASK_COLUMNS},
            "divergence_factor": result.divergence_factor[t],
        }
        for name, result in results.items()
        for t, record in enumerate(result.records)
        for k, task in enumerate(result.tasks)
    ]
    _write(file, rows)


def write_settings(file: Path, table: LossTable, settings: Sequence[SettingFinding]) -> None:
    """Write one row per setting."""
    rows = [
        {
            "setting": one.name,
            "first_record": one.first_record or "",
            "first_step": one.first_step if one.first_record else "",
            "largest_weight": one.largest,
            "largest_task": one.largest_task,
            "mean_change": one.mean_change,
            "divergence_factor": one.divergence_factor,
            "raised": " ".join(one.raised),
            "damped": " ".join(one.damped),
            **{f"final_weight/{task}": one.final[k] for k, task in enumerate(table.tasks)},
            **{f"mean_weight/{task}": one.mean[k] for k, task in enumerate(table.tasks)},
        }
        for one in settings
    ]
    _write(file, rows)


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: "" if cell != cell else cell for name, cell in row.items()} for row in rows)  # NaN
