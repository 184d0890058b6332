"""The tables of a comparison as cells of text, for any page or screen."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lightning_coba.log_keys import TEST_LOSS
from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.comparison.grouping import Suite
from lightning_coba.reports.comparison.text import percent, reading
from lightning_coba.reports.page import Cell, PageTable
from lightning_coba.reports.result_names import DASH, comparative, is_share, result_name, result_title, written
from lightning_coba.reports.statistics import Array, mean_and_deviation, mean_over
from lightning_coba.runs.card import Better
from lightning_coba.runs.collection import Run


def summary_table(comparison: Comparison) -> PageTable:
    """Return a row a method: how good, against what, how fast."""
    changes, against_single = comparison.changes, comparison.changes_against_single_task
    mean, methods = comparison.mean, range(len(comparison.methods))
    better = _best_of(comparison.better)
    columns: dict[str, list[Cell]] = {"method": [Cell(label) for label in comparison.methods]}
    columns[f"mean {comparison.name}"] = _best(
        [_over_seeds(comparison.key, row) for row in mean], mean.mean(axis=1), better
    )
    if changes is not None:
        change = mean_over(changes, axis=1)
        columns["change vs uniform"] = _best([percent(value) for value in change], change, better)
        columns["95 % interval"] = [_interval(comparison, m) for m in methods]
        counted = f"tasks {comparative(comparison.better)}"
        gains = comparison.is_better(changes).sum(axis=1)
        columns[counted] = [Cell(f"{gain} of {len(comparison.tasks)}") for gain in gains]
        for name in ("95 % interval", counted):
            columns[name][comparison.reference or 0] = Cell(DASH)
    if comparison.reference is not None:
        columns["time vs uniform"] = [Cell(_times(value)) for value in comparison.relative_time]
    seconds = mean_over(comparison.seconds_per_step, axis=1)
    columns["time per step"] = _best([_seconds(value) for value in seconds], seconds, min)
    ranks = comparison.mean_ranks
    columns["mean rank"] = _best([_number(rank, ".2f") for rank in ranks], ranks, min)
    if np.isfinite(against_single).any():
        change = mean_over(against_single, axis=1)
        columns["vs single-task"] = _best([percent(value) for value in change], change, better)
    if comparison.has_parts:
        columns["worst task"] = [_worst(comparison, m) for m in methods]
    for key, values in comparison.metrics.items():
        means = mean_over(mean_over(values, axis=2), axis=1)
        columns[result_name(key)] = _best(
            [written(key, value) for value in means], means, _best_of(comparison.metrics_better[key])
        )
    spreads = mean_over(comparison.best_step_spreads, axis=1)
    if comparison.has_parts:
        columns["best-step spread"] = _best([_share(value) for value in spreads], spreads, min)
    return PageTable(
        "Methods",
        list(columns),
        list(zip(*columns.values(), strict=True)),
        f"The best of each column is bold. {_what_is_tested(comparison)} on the test split.",
        {name: words for name in columns if (words := reading(name, comparison))},
    )


def primary_table(comparison: Comparison) -> PageTable:
    """Return one row per task: the primary result by method."""
    extra = {}
    if np.isfinite(comparison.single_task).any():
        extra["single-task"] = comparison.single_task
    if np.isfinite(comparison.before).any():
        extra["before training"] = mean_over(mean_over(comparison.before, axis=1), axis=0)
    said = "Loss per completion token on" if comparison.key == TEST_LOSS else "On"
    return _task_table(comparison.key, comparison, comparison.after, comparison.better, said, extra)


def metric_tables(comparison: Comparison) -> list[PageTable]:
    """Return a table of each other result, with one row per task."""
    return [
        _task_table(key, comparison, values, comparison.metrics_better[key], "On", {})
        for key, values in comparison.metrics.items()
    ]


def left_out_table(suite: Suite) -> PageTable:
    """Return a row a run that is in no average, and why."""

    def row(run: Run, why: str) -> list[Cell]:
        label = suite.labels.get(run.folder, run.method)
        seed = DASH if run.seed is None else str(run.seed)
        return [Cell(text) for text in (label, seed, run.status, why, str(run.folder))]

    rows = [row(run, why) for run, why in suite.left_out.items()]
    columns = ["method", "seed", "status", "why", "folder"]
    return PageTable("Runs left out", columns, rows, "These runs are in no number above.", is_text=True)


def _task_table(
    key: str, comparison: Comparison, values: Array, better: Better, where: str, extra: Mapping[str, Array]
) -> PageTable:
    """Return one row per task and one column per method, and a last row of their means.

    Args:
        key: Key of the result.
        comparison: What is compared.
        values: ``[methods, seeds, tasks]``.
        better: Direction in which they are better.
        where: Beginning of the caption.
        extra: Further columns, each ``[tasks]``.
    """
    with_mean = np.concatenate([values, values.mean(axis=2, keepdims=True)], axis=2)
    rows = []
    for k, name in enumerate([*comparison.tasks, *(["mean"] if comparison.has_parts else [])]):
        texts = [_over_seeds(key, of_method[:, k]) for of_method in with_mean]
        cells = _best(texts, mean_over(with_mean[:, :, k], axis=1), _best_of(better))
        others = [np.append(column, column.mean())[k] for column in extra.values()]
        rows.append([Cell(name), *cells, *(Cell(written(key, value)) for value in others)])
    return PageTable(
        f"{result_title(key)} of each task",
        ["task", *comparison.methods, *extra],
        rows,
        f"{where} the test split, {_seeds(comparison)}. {comparative(better).capitalize()} is better; the best method "
        "of each row is bold.",
    )


def _best_of(better: Better) -> Callable[..., int]:
    return min if better == "min" else max


def _what_is_tested(comparison: Comparison) -> str:
    return "All losses are" if comparison.key == TEST_LOSS else f"All values of {comparison.name} are"


def _best(texts: Sequence[str], values: Array, best: Callable[..., int]) -> list[Cell]:
    """Return cells of which the best are marked, where there is a choice."""
    shown = [text.partition(" ±")[0] for text in texts]
    there = [m for m, value in enumerate(values) if np.isfinite(value)]
    if len({shown[m] for m in there}) < 2:
        return [Cell(text) for text in texts]
    mark = shown[best(there, key=lambda m: values[m])]  # what looks the same is marked the same
    return [Cell(text, text_shown == mark) for text, text_shown in zip(texts, shown, strict=True)]


def _interval(comparison: Comparison, method: int) -> Cell:
    interval = comparison.interval(method)
    return Cell(f"{percent(interval[0])[:-2]} .. {percent(interval[1])}" if interval else DASH)


def _worst(comparison: Comparison, method: int) -> Cell:
    worst = comparison.worst(method)
    return Cell(f"{worst[0]} ({worst[1]:.2f})" if worst else DASH)


def _over_seeds(key: str, values: Array) -> str:
    mean, deviation = mean_and_deviation(values)
    if not np.isfinite(deviation):
        return written(key, mean)
    if is_share(key):
        return f"{100 * mean:.1f} ± {100 * deviation:.1f} %"
    return f"{mean:.3f} ± {deviation:.3f}"


def _seeds(comparison: Comparison) -> str:
    number = len(comparison.seeds)
    return "one seed" if number == 1 else f"mean over {number} seeds ± standard deviation over seeds"


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if np.isfinite(value) else DASH


def _times(value: float) -> str:
    return f"{value:.2f}x" if np.isfinite(value) else DASH


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if np.isfinite(value) else DASH


def _seconds(value: float) -> str:
    if not np.isfinite(value):
        return DASH
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
