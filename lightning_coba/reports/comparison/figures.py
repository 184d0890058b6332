"""Four figures of a comparison: who wins on which task, at what cost, on what way, and when."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.comparison.grouping import REFERENCE
from lightning_coba.reports.comparison.text import percent
from lightning_coba.reports.result_names import result_name, result_title, superlative
from lightning_coba.reports.statistics import Array, mean_and_deviation, mean_over
from lightning_coba.simplex.drawing import sheet, shortened
from lightning_coba.simplex.figures import COLOURS, GREY, HAIR, INK, LABEL_GAP, LABEL_SIZE, LINESTYLES, spread

PANELS_A_ROW = 4
LONGEST_NAME = 34
PALEST = 5.0  # %: changes far below this stay pale, even where there are no larger ones
MARKERS = ("o", "s", "D", "^")
short = partial(shortened, longest=LONGEST_NAME)


class Style(NamedTuple):
    """How a method is drawn, the same in every figure of a suite."""

    colour: str
    linestyle: Any
    marker: str


def method_styles(methods: Sequence[str]) -> dict[str, Style]:
    """Return a colour and line style a method; uniform weights, which all are measured against, are black."""
    styles = {REFERENCE: Style(INK, "-", "o")}
    for number, name in enumerate(sorted(set(methods) - {REFERENCE})):
        again, colour = divmod(number, len(COLOURS))
        styles[name] = Style(COLOURS[colour], LINESTYLES[again % len(LINESTYLES)], MARKERS[again % len(MARKERS)])
    return styles


def change_figure(comparison: Comparison) -> Figure | None:
    """Draw the change of each task's result against uniform weights; None where there is nothing to compare."""
    others = [m for m in range(len(comparison.methods)) if m != comparison.reference]
    if comparison.changes is None or not others:
        return None
    changes = np.vstack([comparison.changes[others].T, mean_over(comparison.changes[others], axis=1)])
    values = 100 * changes
    tasks, methods = [*comparison.tasks, "mean"], [comparison.methods[m] for m in others]
    longest_task, longest_method = (max(len(short(name)) for name in names) for names in (tasks, methods))
    slanted = 0.085 * longest_method > 0.62 and len(methods) > 3
    column = 0.62 if slanted else max(0.1 * longest_method, 1.1)
    height = 0.9 + 0.31 * len(tasks) + (0.055 * longest_method if slanted else 0.2)
    figure = sheet(max(0.7 + 0.085 * longest_task + column * len(methods), 5.6), height)
    axes = figure.subplots()
    # One diverged task should not bleach the others; beyond the limit the colour stays.
    limit = max(1.3 * float(np.nanpercentile(np.abs(values), 95)), PALEST)
    is_min = comparison.better == "min"
    axes.imshow(values, cmap="RdBu_r" if is_min else "RdBu", norm=TwoSlopeNorm(0, -limit, limit), aspect="auto")
    for (row, column_number), value in np.ndenumerate(values):
        if np.isfinite(value):
            style: dict[str, Any] = {"fontweight": "bold" if row == len(tasks) - 1 else "normal"}
            style["color"] = "white" if abs(value) > 0.6 * limit else INK
            axes.text(
                column_number,
                row,
                percent(float(changes[row, column_number]))[:-2],
                ha="center",
                va="center",
                fontsize=8.5,
                **style,
            )
    axes.axhline(len(tasks) - 1.5, color=INK, linewidth=1.2)
    slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(methods)), [short(name) for name in methods], **slant)
    axes.set_yticks(range(len(tasks)), [short(name) for name in tasks])
    axes.tick_params(length=0, labelcolor=INK, labelsize=9)
    axes.spines[:].set_visible(False)
    better = "below 0 = lower" if is_min else "above 0 = higher"
    _title(
        axes, f"{result_title(comparison.key)} against uniform weights, %", f"blue, {better} = better; mean over seeds"
    )
    return figure


def cost_figure(comparison: Comparison, styles: Mapping[str, Style]) -> Figure | None:
    """Draw the mean result against the time of a step; None where no time was recorded."""
    seconds = mean_over(comparison.seconds_per_step, axis=1)
    against = comparison.relative_time
    relative = bool(np.isfinite(against).any())
    time = against if relative else seconds
    shown = [m for m in range(len(comparison.methods)) if np.isfinite(time[m])]
    if not shown:
        return None
    figure = sheet(8.5, max(4.4, 1.7 + 0.2 * len(shown)))
    axes = figure.subplots()
    good = "low" if comparison.better == "min" else "high"
    _title(
        axes,
        f"{result_title(comparison.key)} and its price",
        f"{good} = better, left = faster; bars: standard deviation over seeds",
    )
    points = []
    for m in shown:
        mean, deviation = mean_and_deviation(comparison.mean[m])
        colour, _, marker = styles[comparison.methods[m]]
        bar = None if np.isnan(deviation) else deviation
        axes.errorbar(time[m], mean, yerr=bar, fmt=marker, color=colour, markersize=7, elinewidth=1.2, capsize=3)
        points.append((comparison.methods[m], float(time[m]), mean, colour))
    axes.set_xlabel("time of an optimizer step" + (", uniform = 1" if relative else ", s"), color=INK)
    axes.set_ylabel(f"mean {comparison.name} over tasks", color=INK)
    axes.margins(0.08, 0.1)
    _plain(axes)
    axes.ticklabel_format(useOffset=False)  # which would be written over the title
    _name_points(figure, axes, points)
    return figure


def curves_figure(comparison: Comparison, styles: Mapping[str, Style]) -> Figure | None:
    """Draw each task's objective over the run, the methods over one another; None where no run kept it."""
    if not any(len(steps) for of_task in comparison.curves.values() for steps, _ in of_task.values()):
        return None
    columns = min(PANELS_A_ROW, len(comparison.tasks))
    rows = ceil(len(comparison.tasks) / columns)
    legend_rows = ceil(len(comparison.methods) / 4)
    figure = sheet(max(2.6 * columns, 6.5), 0.9 + 0.22 * legend_rows + 2.1 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, task in zip(panels, comparison.tasks, strict=False):
        for label in reversed(comparison.methods):  # the best comes to lie on top
            style = styles[label]
            steps, losses = comparison.curves[label][task]
            axes.plot(steps, losses, color=style.colour, linestyle=style.linestyle, linewidth=1.4)
        axes.set_title(short(task), loc="left", fontsize=9.5, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(useOffset=False)
        _plain(axes)
        axes.tick_params(labelsize=8, labelbottom=True)
        _leave_out_start(axes, [comparison.curves[label][task] for label in comparison.methods])
    for axes in panels[len(comparison.tasks) :]:
        axes.set_axis_off()
    title = f"{result_title(comparison.objective.key)} of each task against the optimizer step"
    figure.suptitle(title, x=0.02, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    handles = [Line2D([], [], color=styles[m].colour, linestyle=styles[m].linestyle) for m in comparison.methods]
    names = [short(label) for label in comparison.methods]
    looks: dict[str, Any] = {"frameon": False, "fontsize": LABEL_SIZE, "handlelength": 2.8}
    figure.legend(handles, names, loc="outside lower left", ncols=min(4, len(names)), **looks)
    return figure


def best_steps_figure(comparison: Comparison, styles: Mapping[str, Style]) -> Figure | None:
    """Draw when each task was at its best, by method; None where no run kept its objective."""
    best = mean_over(comparison.best_step, axis=1)
    if not np.isfinite(best).any():
        return None
    figure = sheet(8.5, 1.7 + 0.52 * len(comparison.methods))
    axes = figure.subplots()
    objective = comparison.objective
    best_of = f"step of the {superlative(objective.better)} {result_name(objective.key)}"
    _title(axes, "When each task is at its best", f"{best_of}, one dot per task, mean over seeds")
    last = float(np.nanmax(comparison.steps)) if np.isfinite(comparison.steps).any() else float(np.nanmax(best))
    for row, label in enumerate(comparison.methods):
        there = np.flatnonzero(np.isfinite(best[row]))
        if not len(there):
            continue
        steps, colour = best[row][there], styles[label].colour
        axes.plot([steps.min(), steps.max()], [row, row], color=colour, linewidth=5, alpha=0.25, solid_capstyle="round")
        axes.plot(steps, row - _stacked(steps, last / 60), "o", color=colour, markersize=5, markeredgecolor="white")
        for task, x, ha in ((steps.argmin(), steps.min(), "right"), (steps.argmax(), steps.max(), "left")):
            if np.ptp(steps) or ha == "right":
                name = short(comparison.tasks[there[task]]) if np.ptp(steps) else "all tasks"
                offset = {"xytext": (-9 if ha == "right" else 9, 0), "textcoords": "offset points"}
                axes.annotate(name, (x, row), ha=ha, va="center", fontsize=7.5, color=GREY, **offset)  # type: ignore[arg-type]
    axes.set_yticks(range(len(comparison.methods)), [short(label) for label in comparison.methods])
    axes.set_ylim(len(comparison.methods) - 0.4, -0.6)
    axes.set_xlim(-0.15 * last if float(np.nanmin(best)) < 0.2 * last else 0, 1.15 * last)
    axes.set_xticks([tick for tick in MaxNLocator(8, integer=True).tick_values(0, last) if 0 <= tick <= last])
    axes.set_xlabel("optimizer step (earliest and latest task named)", color=INK)
    _plain(axes)
    axes.grid(visible=False, axis="y")
    return figure


def _leave_out_start(axes: Axes, curves: Sequence[tuple[Array, Array]]) -> None:
    """End the axis where the losses of the first quarter begin to dwarf the differences between methods."""
    shown = [losses[steps >= 0.25 * steps[-1]] for steps, losses in curves if len(steps)]
    finite = [value for losses in shown for value in losses if np.isfinite(value)]
    if finite and min(finite) < max(finite):
        margin = 0.06 * (max(finite) - min(finite))
        axes.set_ylim(min(finite) - margin, max(finite) + margin)
    axes.set_xlim(left=0)


def _title(axes: Axes, title: str, how_to_read: str) -> None:
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=20)
    below = {"xytext": (0, 7), "textcoords": "offset points", "xycoords": "axes fraction"}
    axes.annotate(how_to_read, (0, 1), fontsize=9, color=GREY, **below)  # type: ignore[arg-type]


def _plain(axes: Axes) -> None:
    axes.grid(color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=9)


def _stacked(steps: Array, near: float) -> Array:
    """Return how far to lift dots that would cover one another."""
    lifted, seen = np.zeros(len(steps)), Counter[int]()
    for i in np.argsort(steps, kind="stable"):
        place = round(float(steps[i]) / near) if near > 0 else 0
        lifted[i] = 0.12 * seen[place]
        seen[place] += 1
    return np.minimum(lifted, 0.42)


def _name_points(figure: Figure, axes: Axes, points: Sequence[tuple[str, float, float, str]]) -> None:
    """Name the points right of the panel, with thin leaders to them."""
    labels = [
        axes.annotate(
            f"{short(name)}  {y:.3f}", (x, y), xytext=(1.04, 0.5), textcoords="axes fraction", va="center",
            fontsize=LABEL_SIZE, color=INK,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.7, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 4,
            },
        )
        for name, x, y, colour in points
    ]  # fmt: skip
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)
    figure.set_layout_engine("none")
    height = axes.bbox.height * 72 / figure.dpi
    targets = [axes.transLimits.transform(label.xy)[1] * height for label in labels]
    for label, position in zip(labels, spread(targets, LABEL_GAP, 0, height), strict=True):
        label.xyann = (label.xyann[0], position / height)
