"""From rows of named values to a table of losses: which run, which names are tasks, which step."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_coba.reports.past_runs.aggregates import without_aggregates
from lightning_coba.reports.past_runs.rows import (
    STEP_COLUMNS,
    Log,
    Row,
    family,
    held_out_families,
    is_training,
    number,
)

#: Names of columns that are no task although they hold numbers.
NO_TASKS = frozenset({
    "time", "timestamp", "wall_time", "wall time", "runtime", "date", "created_at", "relative time (process)",
    "relative time (wall)", "index", "unnamed: 0", "seed", "lr", "learning_rate", "grad_norm", "total_flos", "tokens",
    "num_input_tokens_seen", "samples", "loss",
})  # fmt: skip
#: Names of one held-out loss over all tasks.
_MEANS = frozenset({"val_loss", "eval_loss", "valid_loss", "validation_loss"})
#: Words of a column's name that make it something other than a loss.
_OTHER = re.compile(
    r"(?:^|[^a-z0-9])(?:acc|accuracy|f1|bleu|rouge[a-z0-9]*|em|exact_match|ppl|perplexity|score|auc|runtime|"
    r"(?:samples|steps)_per_second)(?:$|[^a-z0-9])",
    re.IGNORECASE,
)
_LOSS = re.compile(r"(?:^|[^a-z0-9])(?:loss|nll)(?:$|[^a-z0-9])", re.IGNORECASE)
_LOADER = re.compile(r"/dataloader_idx_\d+$")  # Lightning's, where there are several validation loaders
MOST_NAMES = 8  # a message lists so many


class TaskLosses(NamedTuple):
    """Losses by step: `tasks` names the K columns of `losses` ``[T, K]``, `steps` ``[T]`` counts."""

    tasks: list[str]
    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    notes: list[str]


def task_losses(
    log: Log, tasks: Sequence[str] | None = None, pattern: str | None = None, run: str | None = None
) -> TaskLosses:
    """Find the tasks of a log and line their losses up by step.

    Args:
        log: what was read.
        tasks: names of tasks, or of whole columns; None = all that are found.
        pattern: how a task's losses are called, such as ``"val_loss/{task}"``; None = what looks like held-out losses.
        run: which of several runs, or how its name begins.

    Raises:
        ValueError: there is no loss, or more than one way to read it; the message lists the choices.
    """
    chosen, notes = _of_run(log, run)
    names = list(dict.fromkeys(name for row in chosen for name in row.values))
    columns = _columns(log, chosen, names, tasks, pattern)
    used = [row for row in chosen if any(name in row.values for name in columns.values())]
    step, step_note = _step_column(used, columns.values())
    merged, merge_notes = _merged(used, columns, step)
    merged, joined = _rounds(merged, len(columns))
    notes += [step_note, *merge_notes, *joined, *_left_out(names, columns.values(), step)]
    if tasks is None:
        columns, aggregate_notes = without_aggregates(merged, columns)
        merged = {step: record for step, record in merged.items() if record.keys() & columns.keys()}
        notes += aggregate_notes
    steps = list(merged)
    losses = np.array([[merged[s].get(task, math.nan) for task in columns] for s in steps], dtype=np.float64)
    if any(s != int(s) for s in steps):
        notes.append(f"`{step}` has fractions: records are numbered from 1 instead.")
        steps = list(range(1, len(steps) + 1))
    return TaskLosses(list(columns), np.array(steps, dtype=np.int64), losses, [*log.notes, *filter(None, notes)])


def listed(names: Iterable[str], most: int = MOST_NAMES) -> str:
    """Return names as a list of which a reader sees the first few."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _of_run(log: Log, run: str | None) -> tuple[list[Row], list[str]]:
    """Return the rows of one run."""
    runs = list(dict.fromkeys(row.run for row in log.rows))
    if run is not None:
        found = [name for name in runs if name == run] or [name for name in runs if name.startswith(run)]
        if len(found) != 1:
            raise ValueError(
                f"`read_losses.run` must name one run of {log.name}, or how its name begins; got {run!r}. The runs "
                f"are: {listed(map(repr, runs), 20)}."
            )
        runs = found
    with_losses = [name for name in runs if held_out_families(_names(log, name))] if len(runs) > 1 else []
    if len(with_losses) == 1:
        runs = with_losses
    if len(runs) > 1:
        raise ValueError(
            f"{log.name} holds {len(runs)} runs: {listed(map(repr, runs), 20)}. Choose one: --run {runs[0]!r}"
        )
    return [row for row in log.rows if row.run in runs], [f"Run: {runs[0]}."] if runs and runs[0] else []


def _names(log: Log, run: str) -> set[str]:
    return {name for row in log.rows if row.run == run for name in row.values}


def _columns(
    log: Log, rows: Sequence[Row], names: list[str], tasks: Sequence[str] | None, pattern: str | None
) -> dict[str, str]:
    """Return task -> column."""
    if pattern is not None:
        found = family(names, pattern)
        if not found:
            raise ValueError(
                f"`read_losses.pattern` must fit a column of {log.name}; {pattern!r} fits none. There are: "
                f"{listed(names, 30)}."
            )
    elif tasks and all(task in names for task in tasks):
        found = {task: task for task in tasks}  # whole columns
    else:
        found = _guessed(log, rows, names, tasks)
    if tasks is None:
        return found
    unknown = [task for task in tasks if task not in found]
    if unknown:
        raise ValueError(
            f"`read_losses.tasks` must name tasks of {log.name}; it has no {', '.join(unknown)}. The tasks are: "
            f"{', '.join(found)}.{_other_losses(names, found.values())}"
        )
    return {task: found[task] for task in tasks}


def _other_losses(names: Iterable[str], used: Iterable[str]) -> str:
    """List the columns of losses, training aside, that were not taken for a task."""
    others = [name for name in names if _LOSS.search(name) and name not in {*used} and not is_training(name)]
    return f" Whole columns can be named instead; others with losses are: {', '.join(others)}." if others else ""


def _guessed(log: Log, rows: Sequence[Row], names: list[str], tasks: Sequence[str] | None) -> dict[str, str]:
    families = {pattern: _tidied(group) for pattern, group in held_out_families(names).items()}
    several = {pattern: group for pattern, group in families.items() if len(group) > 1} or families
    if tasks is not None:
        several = {p: group for p, group in several.items() if set(tasks) <= set(group)} or several
    if len(several) > 1:
        lines = "".join(f"\n  --pattern '{pattern}'   tasks: {listed(group)}" for pattern, group in several.items())
        raise ValueError(f"{log.name} holds {len(several)} kinds of losses a task. Choose one:{lines}")
    if several:
        return next(iter(several.values()))
    bare = [name for name in names if _may_be_task(name, rows)] if log.bare else []
    if len(losses := [name for name in bare if _LOSS.search(name)]) > 1:
        bare = losses
    if bare:
        return {name: name for name in bare}
    trained = [name for name in names if is_training(name)]
    hint = (
        f"It holds training losses ({listed(trained, 4)}), and CoBa steers by held-out ones. "
        if trained and "loss" in " ".join(trained)
        else ""
    )
    if means := [name for name in names if name.strip().lower() in _MEANS]:
        hint += f"`{means[0]}` is one loss of all tasks together; each task needs one of its own. "
    raise ValueError(
        f"{log.name} holds no held-out losses under a name such as val_loss/code. {hint}Say how they are called with "
        f"--pattern 'NAME/{{task}}', or list columns with --tasks a,b. The names are: {listed(names, 30) or 'none'}."
    )


def _tidied(group: Mapping[str, str]) -> dict[str, str]:
    """Return task -> column without what Lightning adds to a task's name."""
    whole = {_LOADER.sub("", task): name for task, name in group.items()}
    if len(whole) < len(group):  # two loaders logged one name
        whole = dict(group)
    found = {}
    for task, name in whole.items():
        base, _, kind = task.rpartition("_")
        if kind in ("step", "epoch") and {f"{base}_step", f"{base}_epoch"} <= whole.keys():
            if kind == "epoch":
                found[base] = name
        else:
            found[task] = name
    return found


def _may_be_task(name: str, rows: Sequence[Row]) -> bool:
    plain = name.strip().lower()
    if (
        plain in NO_TASKS | _MEANS
        or plain in STEP_COLUMNS
        or plain.startswith("_")
        or is_training(name)
        or _OTHER.search(plain)
    ):
        return False
    cells = (number(row.values[name]) for row in rows if name in row.values)
    first = next((cell for cell in cells if cell is None or not math.isnan(cell)), None)
    return first is not None


def _step_column(rows: Sequence[Row], columns: Iterable[str]) -> tuple[str | None, str]:
    """Return the surest column that counts in every row with a loss."""
    columns = set(columns)
    known = {name.strip().lower(): name for row in rows for name in row.values}
    filled = [row for row in rows if any(_present(row.values.get(name)) for name in columns)]
    for candidate in STEP_COLUMNS:
        name = known.get(candidate)
        if name in columns or name is None or not filled:
            continue
        repeats = candidate == "epoch" and any(_repeats(filled, name, column) for column in columns)
        if all(_present(row.values.get(name)) for row in filled) and not repeats:
            return name, f"Steps: `{name}`."
    return None, "No column counts steps: rows are numbered from 1."


def _repeats(rows: Sequence[Row], step: str, column: str) -> bool:
    """Return whether a column holds more than one value at a step: several validation passes in an epoch."""
    steps = [row.values[step] for row in rows if _present(row.values.get(column))]
    return len(set(steps)) < len(steps)


def _present(value: object) -> bool:
    cell = number(value)
    return cell is not None and math.isfinite(cell)


def _merged(
    rows: Sequence[Row], columns: Mapping[str, str], step: str | None
) -> tuple[dict[float, dict[str, float]], list[str]]:
    """Return step -> task -> loss in the order of steps; of two values at a step the last one."""
    merged: dict[float, dict[str, float]] = {}
    replaced = infinite = 0
    for row in rows:
        found = {}
        for task, name in columns.items():
            loss = number(row.values.get(name))
            if loss is None:
                raise ValueError(
                    f"{row.where}: column `{name}` must hold numbers, or nothing where a task is absent; got "
                    f"{row.values[name]!r}. Correct the cell, or leave the column out with --tasks."
                )
            infinite += math.isinf(loss)
            if math.isfinite(loss):
                found[task] = loss
        if not found:
            continue
        at = float(len(merged) + 1) if step is None else number(row.values[step])
        assert at is not None
        record = merged.setdefault(at, {})
        replaced += sum(task in record and record[task] != loss for task, loss in found.items())
        record.update(found)
    notes = []
    if replaced:
        notes.append(f"{replaced} losses were logged twice at one step: the last one counts.")
    if infinite:
        notes.append(f"{infinite} losses are infinite: they count as absent.")
    return dict(sorted(merged.items())), notes


def _rounds(merged: dict[float, dict[str, float]], num_tasks: int) -> tuple[dict[float, dict[str, float]], list[str]]:
    """Join steps into records where each task was logged at a step of its own, one after the other."""
    counts: dict[str, int] = {}
    for record in merged.values():
        for task in record:
            counts[task] = counts.get(task, 0) + 1
    alone = all(len(record) == 1 for record in merged.values())
    if num_tasks < 2 or not alone or len(counts) < num_tasks or max(counts.values()) - min(counts.values()) > 1:
        return merged, []
    joined: list[tuple[float, dict[str, float]]] = []
    for step, record in merged.items():
        if not joined or record.keys() & joined[-1][1].keys():
            joined.append((step, {}))
        joined[-1] = (step, joined[-1][1] | record)
    note = (
        f"Each step holds one task: {len(merged)} steps were joined into {len(joined)} records, a round of tasks each."
    )
    return dict(joined), [note]


def _left_out(names: Iterable[str], used: Iterable[str], step: str | None) -> list[str]:
    left = [name for name in names if name not in {*used, step}]
    return [f"Left out: {listed(left)}."] if left else []
