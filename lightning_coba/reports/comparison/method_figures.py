"""Three figures of a comparison: change on each task, course over the run, and when each task was best."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.comparison.grouping import REFERENCE
from lightning_coba.reports.formats import percent
from lightning_coba.reports.panels import heading, heat_map, line_style, panel_title, panels, short
from lightning_coba.reports.result_names import result_name, result_title, superlative
from lightning_coba.reports.statistics import Array, mean_over
from lightning_coba.simplex.figures import INK, LABEL_SIZE, title

PALEST = 5.0  # %: changes far below this stay pale, even where there are no larger ones


def method_styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return how each method is drawn in every figure; uniform weights, which all are measured against, are black."""
    others = sorted(set(methods) - {REFERENCE})
    return {REFERENCE: {"color": INK, "linestyle": "-"}} | {name: line_style(k) for k, name in enumerate(others)}


def change_figure(comparison: Comparison) -> Figure | None:
    """Draw the change of each task's result against uniform weights; None where there is nothing to compare."""
    others = [m for m in range(len(comparison.methods)) if m != comparison.reference]
    if comparison.changes is None or not others:
        return None
    changes = np.vstack([comparison.changes[others].T, mean_over(comparison.changes[others], axis=1)])
    tasks, methods = [*comparison.tasks, "mean"], [comparison.methods[m] for m in others]
    # One diverged task should not bleach the others; beyond the limit the colour stays.
    limit = max(1.3 * float(np.nanpercentile(np.abs(100 * changes), 95)), PALEST)
    is_min = comparison.better == "min"
    figure, axes = heat_map(
        100 * changes,
        tasks,
        methods,
        norm=TwoSlopeNorm(0, -limit, limit),
        cmap="RdBu_r" if is_min else "RdBu",
        write=lambda value: percent(value / 100)[:-2],
    )
    for text in axes.texts[-len(methods) :]:
        text.set_fontweight("bold")
    axes.axhline(len(tasks) - 1.5, color=INK, linewidth=1.2)
    better = "below 0 = lower" if is_min else "above 0 = higher"
    title(
        axes, f"{result_title(comparison.key)} against uniform weights, %", f"blue, {better} = better; mean over seeds"
    )
    return figure


def curves_figure(comparison: Comparison, styles: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """Draw each task's objective over the run, the methods over one another; None where no run kept it."""
    if not any(len(steps) for of_task in comparison.curves.values() for steps, _ in of_task.values()):
        return None
    names = [short(label) for label in comparison.methods]
    figure, found = panels(len(comparison.tasks), 2.1, below=0.22 * ceil(len(names) / 4))
    for axes, task in zip(found, comparison.tasks, strict=True):
        for label in reversed(comparison.methods):  # the best comes to lie on top
            axes.plot(*comparison.curves[label][task], **styles[label], linewidth=1.4)
        panel_title(axes, task)
        _leave_out_start(axes, [comparison.curves[label][task] for label in comparison.methods])
    heading(figure, f"{result_title(comparison.objective.key)} of each task against the optimizer step")
    handles = [Line2D([], [], **styles[m]) for m in comparison.methods]
    looks: dict[str, Any] = {"frameon": False, "fontsize": LABEL_SIZE, "handlelength": 2.8}
    figure.legend(handles, names, loc="outside lower left", ncols=min(4, len(names)), **looks)
    return figure


def best_steps_figure(comparison: Comparison) -> Figure | None:
    """Draw when each task was at its best, by method; None where no run kept its objective."""
    best = mean_over(comparison.best_step, axis=1).T
    if not np.isfinite(best).any():
        return None
    last = float(np.nanmax([np.nanmax(best), *comparison.steps.ravel()]))
    names = [*comparison.tasks], comparison.methods
    figure, axes = heat_map(best, *names, norm=Normalize(0, last), cmap="PuOr_r", write="{:.0f}".format)
    best_of = f"{superlative(comparison.objective.better)} {result_name(comparison.objective.key)}"
    title(axes, f"Step of the {best_of}", "purple = early, orange = late; mean over seeds")
    return figure


def _leave_out_start(axes: Axes, curves: Sequence[tuple[Array, Array]]) -> None:
    """End the axis where the losses of the first quarter begin to dwarf the differences between methods."""
    shown = np.concatenate([losses[steps >= 0.25 * steps[-1]] for steps, losses in curves if len(steps)] or [[]])
    shown = shown[np.isfinite(shown)]
    if shown.size and np.ptp(shown):
        margin = 0.06 * np.ptp(shown)
        axes.set_ylim(shown.min() - margin, shown.max() + margin)
    axes.set_xlim(left=0)
