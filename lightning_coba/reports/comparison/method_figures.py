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
from lightning_coba.reports.comparison.effects import INTERVAL, effect, is_relative, others, shown, task_effects
from lightning_coba.reports.comparison.grouping import REFERENCE
from lightning_coba.reports.formats import percent
from lightning_coba.reports.panels import (
    heading as write_heading,
    heat_map,
    line_style,
    panel_title,
    panels,
    plain,
    short,
)
from lightning_coba.reports.result_names import is_share, result_name, result_title, superlative
from lightning_coba.reports.statistics import FEWEST_SEEDS, Array, PairedEffect, mean_over
from lightning_coba.simplex.drawing import sheet
from lightning_coba.simplex.figures import GREY, INK, LABEL_SIZE, title

#: So many methods are drawn as points with intervals; more are a map of colours.
MOST_DOTTED = 3
PALEST = 5.0  # %: changes far below this stay pale, even where there are no larger ones


def method_styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return how each method is drawn in every figure; uniform weights, which all are measured against, are black."""
    others = sorted(set(methods) - {REFERENCE})
    return {REFERENCE: {"color": INK, "linestyle": "-"}} | {name: line_style(k) for k, name in enumerate(others)}


def change_figure(comparison: Comparison, styles: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """Draw the difference of each task's result to uniform weights; None where there is nothing to compare.

    A few methods are points with their intervals; of many, the numbers are a map of colours.
    """
    compared = others(comparison)
    if not compared:
        return None
    key = comparison.key
    unit = "%" if is_relative(comparison, key) else "points" if is_share(key) else ""
    scale = 100 if unit else 1
    heading = f"{result_title(key)} against uniform weights" + (f", {unit}" if unit else "")
    rows = [*comparison.tasks, "mean"] if comparison.has_parts else [comparison.name]
    found = [
        [*task_effects(comparison, key, m), *[effect(comparison, key, m)] * comparison.has_parts] for m in compared
    ]
    methods = [comparison.methods[m] for m in compared]
    is_min = comparison.better == "min"
    if len(compared) <= MOST_DOTTED:
        colours = [styles[name]["color"] for name in methods]
        figure, axes = _dots(scale, rows, methods, colours, found)
        reach = f"lines: {INTERVAL}s" if len(comparison.seeds) >= FEWEST_SEEDS else "too few seeds for intervals"
        title(axes, heading, f"{'left' if is_min else 'right'} of 0 is better; {reach}")
        return figure
    changes = scale * np.array([[one.mean for one in of_method] for of_method in found]).T
    # One diverged task should not bleach the others; beyond the limit the colour stays.
    limit = max(1.3 * float(np.nanpercentile(np.abs(changes), 95)), PALEST * scale / 100)
    figure, axes = heat_map(
        changes,
        rows,
        methods,
        norm=TwoSlopeNorm(0, -limit, limit),
        cmap="RdBu_r" if is_min else "RdBu",
        write=lambda value: percent(value / 100)[:-2] if unit else f"{value:+.3f}",
    )
    if comparison.has_parts:
        for text, m in zip(axes.texts[-len(methods) :], compared, strict=True):
            if shown(comparison, key, m) in ("better", "worse"):
                text.set_fontweight("bold")
        axes.axhline(len(rows) - 1.5, color=INK, linewidth=1.2)
    better = "below 0 = lower" if is_min else "above 0 = higher"
    bold = "; bold: a difference is shown" if comparison.has_parts else ""
    title(axes, heading, f"blue, {better} = better; mean over seeds{bold}")
    return figure


def _dots(
    scale: float,
    rows: Sequence[str],
    methods: Sequence[str],
    colours: Sequence[Any],
    found: Sequence[Sequence[PairedEffect]],
) -> tuple[Figure, Axes]:
    """Draw each row's numbers as points with their intervals, and write them right of the panel."""
    height = 0.16 + 0.2 * len(methods)
    figure = sheet(8.0, 1.25 + 0.25 * (len(methods) > 1) + height * len(rows), pad=0.1)
    axes = figure.subplots()
    plain(axes)
    axes.axvline(0, color=INK, linewidth=1)
    places = np.linspace(-0.26, 0.26, len(methods)) if len(methods) > 1 else np.zeros(1)
    beside: dict[str, Any] = {"va": "center", "fontsize": LABEL_SIZE, "transform": axes.get_yaxis_transform()}
    for colour, place, of_method in zip(colours, places, found, strict=True):
        for row, one in enumerate(of_method):
            y = row + place
            axes.plot([scale * one.low, scale * one.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
            axes.plot(scale * one.mean, y, "o", color=colour, markersize=5)
            text = percent(one.mean)[:-2] if scale == 100 else f"{one.mean:+.3f}"
            axes.text(1.015, y, text if np.isfinite(one.mean) else "", color=colour, **beside)
    axes.set_yticks(range(len(rows)), [short(name) for name in rows])
    if len(rows) > 1:
        axes.axhline(len(rows) - 1.5, color=GREY, linewidth=0.8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.04)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=8.5)
    axes.grid(axis="y", visible=False)
    if len(methods) > 1:
        handles = [Line2D([], [], color=colour, marker="o") for colour in colours]
        looks: dict[str, Any] = {"frameon": False, "fontsize": LABEL_SIZE, "ncols": len(methods)}
        figure.legend(handles, [short(name) for name in methods], loc="outside lower left", **looks)
    return figure, axes


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
    write_heading(figure, f"{result_title(comparison.objective.key)} of each task against the optimizer step")
    handles = [Line2D([], [], **styles[m]) for m in comparison.methods]
    looks: dict[str, Any] = {"frameon": False, "fontsize": LABEL_SIZE, "handlelength": 2.8}
    figure.legend(handles, names, loc="outside lower left", ncols=min(4, len(names)), **looks)
    return figure


def best_steps_figure(comparison: Comparison) -> Figure | None:
    """Draw when each task was at its best, by method; None where no run kept its objective."""
    best = mean_over(comparison.best_step, axis=1).T
    if not np.isfinite(best).any() or min(best.shape) < 2:  # of one method or task the table and the curves say it
        return None
    last = float(np.nanmax([np.nanmax(best), *comparison.steps.ravel()]))
    names = [*comparison.tasks], comparison.methods
    figure, axes = heat_map(best, *names, norm=Normalize(0, last), cmap="PuOr_r", write="{:.0f}".format)
    best_of = f"{superlative(comparison.objective.better)} {result_name(comparison.objective.key)}"
    title(axes, f"Step of the {best_of}", "purple = early, orange = late; mean over seeds")
    return figure


def _leave_out_start(axes: Axes, curves: Sequence[tuple[Array, Array]]) -> None:
    """End the axis where the losses of the first quarter begin to dwarf the differences between methods."""
    later = np.concatenate([losses[steps >= 0.25 * steps[-1]] for steps, losses in curves if len(steps)] or [[]])
    later = later[np.isfinite(later)]
    if later.size and np.ptp(later):
        margin = 0.06 * np.ptp(later)
        axes.set_ylim(later.min() - margin, later.max() + margin)
    axes.set_xlim(left=0)
