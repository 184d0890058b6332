"""The tables of a replay: two for its page, two as files."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_coba.reports.formats import listed
from lightning_coba.reports.page import Cell, PageTable
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.replay.findings import NOTICEABLE, TOLERANCE, SettingFinding, TaskFinding
from lightning_coba.simplex.records import PER_TASK_COLUMNS, BalanceTable

#: More tasks than this have their final weights in the figure and the files alone.
MOST_WEIGHT_COLUMNS = 12
DASH = "—"
WEIGHT_COLUMNS = (
    "setting", "record", "step", "task", "loss", "ratio", "weight", "slope", "rcs", "acs", "divergence_factor",
)  # fmt: skip
_READING = {
    "from record": "The first record after which the weights were not all equal, and its step.",
    "change": "Summed absolute change of the weights from one record to the next, on average: how restless they are.",
    "DF": "Divergence factor at the end: the share of the relative score (RCS) in the weights; the absolute score "
    "(ACS) has the rest.",
    "raised, damped": f"Tasks whose weight was on average more than {NOTICEABLE:.0%} above or below the equal share.",
}


def tasks_table(table: LossTable, found: Sequence[TaskFinding]) -> PageTable:
    """Return a row a task: where its loss began, was lowest and ended."""
    columns = ["task", "V(0)", "last loss / V(0)", "lowest at record", "step", "since its lowest", "at the end"]
    rows = []
    for one, baseline in zip(found, table.first_losses, strict=True):
        best = (str(one.best_record), str(one.best_step)) if one.best_record else (DASH, DASH)
        numbers = (number(baseline, ".4g"), number(one.last_ratio, ".3f"), *best, number(one.rise, "+.1%"))
        rows.append([Cell(text) for text in (one.task, *numbers, one.state)])
    caption = (
        "At the end: by a line through the last quarter of the records, at least 3; flat = it changes by "
        f"{TOLERANCE:.0%} or less, or by less than twice its standard error."
    )
    return PageTable("Tasks", columns, rows, caption)


def settings_table(table: LossTable, settings: Sequence[SettingFinding]) -> PageTable:
    """Return a row a setting: when it began, the weights it ended with, whom it raised and damped."""
    tasks = table.tasks if len(table.tasks) <= MOST_WEIGHT_COLUMNS else []
    columns = ["setting", "from record", *tasks, "largest weight", "change", "DF", "raised", "damped"]
    rows = []
    for one in settings:
        begins = f"{one.first_record} (step {table.steps[one.first_record - 1]})" if one.first_record else "never"
        weights = [number(weight, ".3f") for weight in one.final[: len(tasks)]]
        largest = f"{one.largest:.2f} {one.largest_task}"
        moved = [listed(group, 4) or DASH for group in (one.raised, one.damped)]
        numbers = (largest, number(one.mean_change, ".3f"), number(one.divergence_factor, ".2f"))
        rows.append([Cell(text) for text in (one.name, begins, *weights, *numbers, *moved)])
    equal = f" The columns of the tasks are their weights after the last record (equal: {1 / len(table.tasks):.3f})."
    return PageTable("Settings", columns, rows, "What each setting would have done." + equal * bool(tasks), _READING)


def write_weights(file: Path, results: Mapping[str, BalanceTable]) -> None:
    """Write a row a setting, record and task; a number that there is none of is empty."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, WEIGHT_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for name, result in results.items():
            for t, (record, step) in enumerate(zip(result.records, result.steps, strict=True)):
                shared = {"setting": name, "record": record, "step": step}
                shared["divergence_factor"] = _cell(result.divergence_factor[t])
                for k, task in enumerate(result.tasks):
                    values = {column: _cell(getattr(result, column)[t, k]) for column in PER_TASK_COLUMNS}
                    writer.writerow(shared | {"task": task} | values)


def write_settings(file: Path, table: LossTable, settings: Sequence[SettingFinding]) -> None:
    """Write a row a setting."""
    weights = [f"{kind}_weight/{task}" for kind in ("final", "mean") for task in table.tasks]
    columns = ("setting", "first_record", "first_step", "largest_weight", "largest_task", "mean_change")
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*columns, "divergence_factor", "raised", "damped", *weights])
        for one in settings:
            first = (one.first_record, table.steps[one.first_record - 1]) if one.first_record else ("", "")
            largest = (_cell(one.largest), one.largest_task, _cell(one.mean_change))
            moved = (_cell(one.divergence_factor), " ".join(one.raised), " ".join(one.damped))
            writer.writerow([one.name, *first, *largest, *moved, *map(_cell, one.final), *map(_cell, one.mean)])


def number(value: float, form: str) -> str:
    """Return a number in a format, a dash where there is none."""
    return DASH if math.isnan(value) else format(value, form)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))
