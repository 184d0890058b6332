"""The tables of a comparison as cells of text, for any page or screen."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.comparison.grouping import Suite
from lightning_coba.reports.comparison.text import DASH, METRIC_NAMES, percent, reading
from lightning_coba.reports.page import Cell, PageTable
from lightning_coba.reports.statistics import Array, mean_and_deviation, mean_over
from lightning_coba.runs.collection import Run


def summary_table(comparison: Comparison) -> PageTable:
    """Return a row a method: how good, against what, how fast."""
    changes, against_single = comparison.changes, comparison.changes_against_single_task
    loss, methods = comparison.mean_test_loss, range(len(comparison.methods))
    columns: dict[str, list[Cell]] = {"method": [Cell(label) for label in comparison.methods]}
    columns["mean test loss"] = _best([_over_seeds(row) for row in loss], loss.mean(axis=1), min)
    if changes is not None:
        change = mean_over(changes, axis=1)
        columns["change vs uniform"] = _best([percent(value) for value in change], change, min)
        columns["95 % interval"] = [_interval(comparison, m) for m in methods]
        columns["tasks lower"] = [Cell(f"{int((changes[m] < 0).sum())} of {len(comparison.tasks)}") for m in methods]
        for name in ("95 % interval", "tasks lower"):
            columns[name][comparison.reference or 0] = Cell(DASH)
    if comparison.reference is not None:
        columns["time vs uniform"] = [Cell(_times(value)) for value in comparison.relative_time]
    seconds = mean_over(comparison.seconds_per_step, axis=1)
    columns["time per step"] = _best([_seconds(value) for value in seconds], seconds, min)
    ranks = comparison.mean_ranks
    columns["mean rank"] = _best([_number(rank, ".2f") for rank in ranks], ranks, min)
    if np.isfinite(against_single).any():
        change = mean_over(against_single, axis=1)
        columns["vs single-task"] = _best([percent(value) for value in change], change, min)
    columns["worst task"] = [_worst(comparison, m) for m in methods]
    for name, values in comparison.metrics.items():
        means = mean_over(mean_over(values, axis=2), axis=1)
        columns[METRIC_NAMES.get(name, name)] = _best([_share(value) for value in means], means, max)
    spreads = mean_over(comparison.best_step_spreads, axis=1)
    columns["best-step spread"] = _best([_share(value) for value in spreads], spreads, min)
    return PageTable(
        "Methods",
        list(columns),
        list(zip(*columns.values(), strict=True)),
        "The best of each column is bold. All losses are on the test split.",
        {name: words for name in columns if (words := reading(name, comparison))},
    )


def loss_table(comparison: Comparison) -> PageTable:
    """Return a row a task: test loss by method."""
    extra = {}
    if np.isfinite(comparison.single_task).any():
        extra["single-task"] = comparison.single_task
    if np.isfinite(comparison.test_before).any():
        extra["before training"] = mean_over(mean_over(comparison.test_before, axis=1), axis=0)
    return _task_table(
        "Test loss of each task",
        comparison,
        comparison.test_loss,
        _over_seeds,
        min,
        f"Loss per completion token on the test split, {_seeds(comparison)}. Lower is better; the best method of each "
        "row is bold.",
        extra,
    )


def metric_tables(comparison: Comparison) -> list[PageTable]:
    """Return a table a metric, with a row a task."""
    return [
        _task_table(
            f"{METRIC_NAMES.get(name, name).capitalize()} of each task",
            comparison,
            values,
            lambda seeds: _over_seeds(100 * seeds, ".1f", " %"),
            max,
            f"On the test split, {_seeds(comparison)}. Higher is better; the best method of each row is bold.",
        )
        for name, values in comparison.metrics.items()
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
    title: str,
    comparison: Comparison,
    values: Array,
    write: Callable[[Array], str],
    best: Callable[..., int],
    caption: str,
    extra: Mapping[str, Array] | None = None,
) -> PageTable:
    """Return a row a task and a column a method, from ``[methods, seeds, tasks]``, and a last row of their means."""
    extra = extra or {}
    with_mean = np.concatenate([values, values.mean(axis=2, keepdims=True)], axis=2)
    rows = []
    for k, name in enumerate([*comparison.tasks, "mean"]):
        cells = _best([write(of_method[:, k]) for of_method in with_mean], mean_over(with_mean[:, :, k], axis=1), best)
        others = [np.append(column, column.mean())[k] for column in extra.values()]
        rows.append([Cell(name), *cells, *(Cell(_number(value, ".3f")) for value in others)])
    return PageTable(title, ["task", *comparison.methods, *extra], rows, caption)


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


def _over_seeds(values: Array, form: str = ".3f", unit: str = "") -> str:
    mean, deviation = mean_and_deviation(values)
    if np.isnan(mean):
        return DASH
    return f"{mean:{form}}" + (f" ± {deviation:{form}}" if np.isfinite(deviation) else "") + unit


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
