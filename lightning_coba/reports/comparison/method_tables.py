"""The tables of a comparison as cells of text, for any page or screen."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lightning_coba.log_keys import TEST_LOSS
from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.comparison.grouping import Suite
from lightning_coba.reports.comparison.headline import interval_in_words, reading
from lightning_coba.reports.formats import DASH, number, percent, seconds, share
from lightning_coba.reports.page import Cell, PageTable
from lightning_coba.reports.result_names import comparative, result_name, result_title, written, written_over_seeds
from lightning_coba.reports.statistics import Array, mean_over
from lightning_coba.runs.card import WHOLE, Better


def summary_table(comparison: Comparison) -> PageTable:
    """Return one row per method: how good, against what, how fast."""
    changes, methods = comparison.changes, range(len(comparison.methods))
    better = _best_of(comparison.better)
    columns: dict[str, Sequence[str | Cell]] = {"method": comparison.methods}

    def add(name: str, values: Array, write: Callable[[float], str], best: Callable[..., int] = min) -> None:
        columns[name] = _best([write(value) for value in values], values, best)

    means = [written_over_seeds(comparison.key, row) for row in comparison.mean]
    columns[comparison.mean_name] = _best(means, comparison.mean.mean(axis=1), better)
    if changes is not None:
        add("change vs uniform", mean_over(changes, axis=1), percent, better)
        is_reference = [m == comparison.reference for m in methods]
        columns["95 % interval"] = [DASH if is_reference[m] else interval_in_words(comparison, m) for m in methods]
        gains = [f"{gain} of {len(comparison.tasks)}" for gain in comparison.is_better(changes).sum(axis=1)]
        columns[f"tasks {comparative(comparison.better)}"] = [DASH if is_reference[m] else gains[m] for m in methods]
        columns["time vs uniform"] = [
            number(value, ".2f") + "x" * bool(value > 0) for value in comparison.relative_time
        ]
    add("time per step", mean_over(comparison.seconds_per_step, axis=1), seconds)
    add("mean rank", comparison.mean_ranks, lambda rank: number(rank, ".2f"))
    if np.isfinite(against_single := comparison.changes_against_single_task).any():
        add("vs single-task", mean_over(against_single, axis=1), percent, better)
    if comparison.has_parts:
        columns["worst task"] = [
            f"{worst[0]} ({worst[1]:.2f})" if (worst := comparison.worst(m)) else DASH for m in methods
        ]
    for key, result in [*comparison.results.items()][1:]:
        of_seeds, best = mean_over(result.values, axis=2), _best_of(result.better)
        shown = [written_over_seeds(key, row) for row in of_seeds]
        columns[result_name(key)] = _best(shown, mean_over(of_seeds, axis=1), best)
    if comparison.has_parts:
        add("best-step spread", mean_over(comparison.best_step_spreads, axis=1), share)
    of = "All losses are" if comparison.key == TEST_LOSS else f"All values of {comparison.name} are"
    reads = {name: words for name in columns if (words := reading(name, comparison))}
    return PageTable.of("Methods", columns, f"The best of each column is bold. {of} on the test split.", reading=reads)


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
        cells = _best(texts, mean_over(with_mean[:, :, k], axis=1), _best_of(result.better))
        others = [np.append(column, column.mean())[k] for column in extra.values()]
        rows.append([Cell(name), *cells, *(Cell(written(key, value)) for value in others)])
    several = len(comparison.seeds) > 1
    seeds = f"mean over {len(comparison.seeds)} seeds ± standard deviation over seeds" if several else "one seed"
    return PageTable(
        f"{result_title(key)} of each task",
        ["task", *comparison.methods, *extra],
        rows,
        f"{'Loss per completion token on' if key == TEST_LOSS else 'On'} the test split, {seeds}. "
        f"{comparative(result.better).capitalize()} is better; the best method of each row is bold.",
    )


def _best_of(better: Better) -> Callable[..., int]:
    return min if better == "min" else max


def _best(texts: Sequence[str], values: Array, best: Callable[..., int]) -> list[Cell]:
    """Return cells of which the best are marked, where there is a choice."""
    shown = [text.partition(" ±")[0] for text in texts]
    there = [m for m, value in enumerate(values) if np.isfinite(value)]
    if len({shown[m] for m in there}) < 2:
        return [Cell(text) for text in texts]
    mark = shown[best(there, key=lambda m: values[m])]  # what looks the same is marked the same
    return [Cell(text, text_shown == mark) for text, text_shown in zip(texts, shown, strict=True)]
