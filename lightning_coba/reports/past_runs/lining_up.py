"""From the rows of a log to a table with one record per step."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lightning_coba.errors import UserError
from lightning_coba.reports.formats import listed
from lightning_coba.reports.past_runs.columns import task_columns
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.past_runs.names import STEP_COLUMNS, is_training, says_loss
from lightning_coba.reports.past_runs.rows import Log, Row, number
from lightning_coba.user_files import shown

#: Whole numbers above are not exact as floats.
LARGEST_STEP = 2**53
#: Step -> task -> loss, in the order of steps.
Records = dict[float, dict[str, float]]


def line_up(log: Log, tasks: Sequence[str] | None = None, pattern: str | None = None) -> LossTable:
    """Return the losses of one run by step, of the columns that `task_columns` finds.

    Raises:
        ValueError: There is no loss, more than one way to read it, or a cell is no number.
    """
    columns = task_columns(log, tasks, pattern)
    filled = [row for row in log.rows if any(map(row.holds_number, columns.values()))]
    step, step_note = _step_column(filled, columns.values())
    records, notes = _merged(log.rows, columns, step)
    records, joined = _rounds(records, len(columns))
    left = [name for name in log.columns if name not in {*columns.values(), step}]
    left.sort(key=lambda name: is_training(name) or not says_loss(name))  # first what may have been meant
    notes = [step_note, *notes, *joined, *([f"Left out: {listed(left)}; --tasks includes what it names."] * bool(left))]
    losses = [[record.get(task, math.nan) for task in columns] for record in records.values()]
    steps: Sequence[float] = list(records)
    if any(at % 1 or abs(at) > LARGEST_STEP for at in steps):
        notes.append(f"`{step}` has fractions, or is too large: records are numbered from 1 instead.")
        steps = range(1, len(records) + 1)
    return LossTable(
        list(columns),
        np.array(steps, dtype=np.int64),
        np.array(losses, dtype=np.float64),
        source=log.name,
        notes=[*log.notes, *notes],
    )


def _step_column(rows: Sequence[Row], columns: Iterable[str]) -> tuple[str | None, str]:
    """Return the surest column that counts in every row with a loss."""
    known = {name.strip().lower(): name for row in rows for name in row.values if name not in columns}
    for name in (known[candidate] for candidate in STEP_COLUMNS if candidate in known):
        several = name.strip().lower() == "epoch" and any(_repeats(rows, name, column) for column in columns)
        if all(row.holds_number(name) for row in rows) and not several:
            return name, f"Steps: `{name}`."
    return None, "No column counts steps: rows are numbered from 1."


def _repeats(rows: Sequence[Row], step: str, column: str) -> bool:
    """Return whether a column holds more than one value at a step: several validation passes in an epoch."""
    steps = [row.values.get(step) for row in rows if row.holds_number(column)]
    return len(set(steps)) < len(steps)


def _merged(rows: Sequence[Row], columns: Mapping[str, str], step: str | None) -> tuple[Records, list[str]]:
    """Return the records, with the last of two values at a step, and what was dropped."""
    merged: Records = {}
    replaced = infinite = 0
    for row in rows:
        found = {}
        for task, name in columns.items():
            if (cell := number(row.values.get(name))) is None:
                raise UserError(
                    f"column `{name}` must hold numbers, or nothing where a task is absent; got "
                    f"{shown(row.values[name])}.",
                    "Correct the cell, or leave the column out with --tasks.",
                    where=f"{row.where}",
                )
            infinite += math.isinf(cell)
            if math.isfinite(cell):
                found[task] = cell
        if found:
            at = len(merged) + 1 if step is None else float(row.values[step])
            record = merged.setdefault(at, {})
            replaced += sum(record.get(task, loss) != loss for task, loss in found.items())
            record.update(found)
    notes = []
    if replaced:
        notes.append(f"{replaced} losses were logged twice at one step: the last one counts.")
    if infinite:
        notes.append(f"{infinite} losses are infinite: they count as absent.")
    return dict(sorted(merged.items())), notes


def _rounds(records: Records, num_tasks: int) -> tuple[Records, list[str]]:
    """Join steps into records where each task was logged at a step of its own, one after the other."""
    counts = Counter(task for record in records.values() for task in record)
    alone = all(len(record) == 1 for record in records.values())
    if not alone or num_tasks < 2 or len(counts) < num_tasks or max(counts.values()) - min(counts.values()) > 1:
        return records, []
    rounds: list[tuple[float, dict[str, float]]] = []
    for step, record in records.items():
        begun = rounds.pop()[1] if rounds and not record.keys() & rounds[-1][1].keys() else {}
        rounds.append((step, begun | record))
    note = f"Each step holds one task: {len(records)} steps were joined into {len(rounds)} records, one for each round."
    return dict(rounds), [note]
