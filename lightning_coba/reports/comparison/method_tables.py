"""The tables of a comparison as cells of text, for any page or screen."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lightning_coba.log_keys import TEST_LOSS
from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.comparison.effects import (
    INTERVAL,
    difference_in_words,
    effect,
    interval_in_words,
    others,
    shown,
)
from lightning_coba.reports.comparison.grouping import Suite
from lightning_coba.reports.comparison.headline import reading
from lightning_coba.reports.comparison.times import times_in_words
from lightning_coba.reports.formats import DASH, number, percent, seconds, share
from lightning_coba.reports.page import Cell, PageTable
from lightning_coba.reports.result_names import comparative, result_name, result_title, written, written_over_seeds
from lightning_coba.reports.statistics import Array, mean_over
from lightning_coba.runs.card import WHOLE


def summary_table(comparison: Comparison) -> PageTable:
    """Return one row per method: what came out, and what that shows against uniform weights."""
    key, compared = comparison.key, others(comparison)
    columns: dict[str, Sequence[str | Cell]] = {
        "method": comparison.methods,
        comparison.mean_name: [written_over_seeds(key, row) for row in comparison.mean],
    }
    if compared:
        columns |= _against_uniform(comparison, key)
    of = "All losses are" if key == TEST_LOSS else f"All values of {comparison.name} are"
    bold = " Bold: a difference is shown." if compared else ""
    return PageTable.of("Methods", columns, f"{of} on the test split.{bold}", reading=_readings(columns, comparison))


def details_table(comparison: Comparison) -> PageTable | None:
    """Return one row per method with everything else: other results, tasks, time; None where there is nothing."""
    methods = range(len(comparison.methods))
    columns: dict[str, Sequence[str | Cell]] = {"method": comparison.methods}
    for key, result in [*comparison.results.items()][1:]:
        name = result_name(key)
        columns[name] = [written_over_seeds(key, row) for row in mean_over(result.values, axis=2)]
        if others(comparison):
            against = _against_uniform(comparison, key)
            columns |= {f"{name}: {column}": cells for column, cells in against.items()}
    if comparison.changes is not None and comparison.has_parts:
        gains = comparison.is_better(comparison.changes).sum(axis=1)
        columns[f"tasks {comparative(comparison.better)}"] = [
            DASH if m == comparison.reference else f"{gains[m]} of {len(comparison.tasks)}" for m in methods
        ]
    if comparison.has_parts:
        worst = [comparison.worst(m) for m in methods]
        columns["worst task"] = [f"{found[0]} ({found[1]:.2f})" if found else DASH for found in worst]
    if np.isfinite(against_single := comparison.changes_against_single_task).any():
        columns["vs single-task"] = [percent(value) for value in mean_over(against_single, axis=1)]
    if len(comparison.methods) > 1:
        columns["mean rank"] = [number(rank, ".2f") for rank in comparison.mean_ranks]
    if comparison.has_parts:
        columns["best-step spread"] = [share(value) for value in mean_over(comparison.best_step_spreads, axis=1)]
    columns["time per step"] = [seconds(value) for value in mean_over(comparison.seconds_per_step, axis=1)]
    if comparison.reference is not None:
        columns["time vs uniform"] = times_in_words(comparison)
    columns = {name: cells for name, cells in columns.items() if {*cells} != {DASH}}
    if len(columns) == 1:
        return None
    return PageTable.of("More about the methods", columns, reading=_readings(columns, comparison))


def _against_uniform(comparison: Comparison, key: str) -> dict[str, list[Cell]]:
    """Return the columns that say how a result differs from that of uniform weights."""
    columns: dict[str, list[Cell]] = {"vs uniform": [], INTERVAL: [], "difference": []}
    for m in range(len(comparison.methods)):
        if m == comparison.reference:
            texts, is_shown = [DASH] * 3, False
        else:
            result, mean = shown(comparison, key, m), effect(comparison, key, m).mean
            texts = [
                difference_in_words(comparison, key, mean) if np.isfinite(mean) else DASH,
                interval_in_words(comparison, key, m),
                result,
            ]
            is_shown = result in ("better", "worse")
        for cells, text in zip(columns.values(), texts, strict=True):
            cells.append(Cell(text, is_shown))
    return columns


def _readings(columns: Iterable[str], comparison: Comparison) -> dict[str, str]:
    return {name: words for name in columns if (words := reading(name, comparison))}


def task_tables(comparison: Comparison) -> list[PageTable]:
    """Return a table of each result that has parts, with one row per part: the primary one, then the others."""
    extra = {}
    if np.isfinite(comparison.single_task).any():
        extra["single-task"] = comparison.single_task
    if np.isfinite(comparison.before).any():
        extra["before training"] = mean_over(mean_over(comparison.before, axis=1), axis=0)
    parted = [key for key, result in comparison.results.items() if [*result.parts] != [WHOLE]]
    return [_task_table(comparison, key, extra if key == comparison.key else {}) for key in parted]


def left_out_table(suite: Suite) -> PageTable:
    """Return one row per run that is in no average, and why."""
    runs = suite.left_out
    columns = {
        "method": [suite.labels.get(run.folder, run.method) for run in runs],
        "seed": [DASH if run.seed is None else str(run.seed) for run in runs],
        "status": [run.status for run in runs],
        "why": list(runs.values()),
        "folder": [str(run.folder) for run in runs],
    }
    return PageTable.of("Runs left out", columns, "These runs are in no number above.", is_text=True)


def _task_table(comparison: Comparison, key: str, extra: Mapping[str, Array]) -> PageTable:
    """Return one row per task and one column per method, and a last row of their means.

    Args:
        comparison: What is compared.
        key: Key of the result.
        extra: Further columns, each ``[K]``.
    """
    result = comparison.results[key]
    with_mean = np.concatenate([result.values, result.values.mean(axis=2, keepdims=True)], axis=2)
    rows = []
    for k, name in enumerate([*result.parts, "mean"]):
        texts = [written_over_seeds(key, of_method[:, k]) for of_method in with_mean]
        texts += [written(key, np.append(column, column.mean())[k]) for column in extra.values()]
        rows.append([Cell(name), *map(Cell, texts)])
    several = len(comparison.seeds) > 1
    seeds = f"mean over {len(comparison.seeds)} seeds ± standard deviation over seeds" if several else "one seed"
    return PageTable(
        f"{result_title(key)} of each task",
        ["task", *comparison.methods, *extra],
        rows,
        f"{'Loss per completion token on' if key == TEST_LOSS else 'On'} the test split, {seeds}. "
        f"{comparative(result.better).capitalize()} is better. No cell is marked: of so many numbers some are the best "
        "of their row by chance.",
    )
