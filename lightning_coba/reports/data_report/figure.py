"""One picture of the data: how long, how much of an epoch, how balanced, and what a step holds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, ScalarFormatter

from lightning_coba.errors import UserError
from lightning_coba.reports.panels import plain
from lightning_coba.simplex.drawing import sheet
from lightning_coba.simplex.figures import COLOURS, GREY, INK, title
from lightning_coba.simplex.short_names import shortened

if TYPE_CHECKING:
    from lightning_coba.inspection.inspected_task import InspectedTask
    from lightning_coba.inspection.inspecting import Inspection
    from lightning_coba.inspection.steps import StepFacts

_STEPS_SHOWN = 40
_LABELS_SHOWN = 12
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}


def data_figure(inspection: "Inspection", max_length: int) -> Figure:
    """Draw token lengths, shares of an epoch, the first steps, and the balance of labels where there are labels.

    Args:
        inspection: An inspection of tasks that can be read; with steps.
        max_length: Tokens that a row may have, drawn as a line.

    Raises:
        ValueError: The inspection has no steps: nothing can be drawn.
    """
    steps = inspection.steps
    if steps is None:
        raise UserError("`data_figure.inspection` must have steps; got none.", "Correct the errors first.")
    colours = {task: COLOURS[k % len(COLOURS)] for k, task in enumerate(steps.tasks)}
    tasks = [task for task in inspection.tasks if task.name in colours]
    labelled = [task for task in tasks if task.labels]
    heights = [max(2.4, 1.1 + 0.42 * len(steps.tasks)), 3.0]
    if labelled:
        heights.append(max(1.6, 1.0 + 0.34 * len(labelled)))
    figure = sheet(11, sum(heights))
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    _draw_lengths(figure.add_subplot(grid[0, 0]), tasks, colours, max_length)
    _draw_shares(figure.add_subplot(grid[0, 1]), steps, colours)
    _draw_steps(figure.add_subplot(grid[1, :]), steps, colours)
    if labelled:
        _draw_labels(figure.add_subplot(grid[2, :]), labelled, colours)
    return figure


def _draw_lengths(axes: Axes, tasks: Sequence["InspectedTask"], colours: dict[str, str], max_length: int) -> None:
    _frame(axes, "Tokens of a row", "5 % to 95 %, dot: median, tick: longest; from above: train, validation, test")
    for place, task in enumerate(tasks):
        colour = colours[task.name]
        for split, below in (("train", -0.24), ("validation", 0.0), ("test", 0.24)):
            lengths, y = task.lengths(split), place + below
            width, size = (2.6, 4) if split == "train" else (1.4, 3)
            low, middle, high = np.quantile(lengths, [0.05, 0.5, 0.95])
            axes.plot([low, high], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
            axes.plot(middle, y, "o", color=colour, markersize=size)
            axes.plot(lengths.max(), y, "|", color=colour, markersize=5)
    axes.set_xscale("log")
    if axes.dataLim.x1 > max_length / 4:
        axes.axvline(max_length, color=GREY, linewidth=0.9, linestyle="--")
        where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom"}
        axes.annotate(f"max_length {max_length} ", (max_length, 0.01), fontsize=8, color=GREY, bbox=_PAPER, **where)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("tokens of prompt and completion")
    _task_axis(axes, list(colours))


def _draw_shares(axes: Axes, steps: "StepFacts", colours: dict[str, str]) -> None:
    _frame(axes, "Share of an epoch", "coloured: learned tokens; grey: all tokens; line: rows")
    places = np.arange(len(steps.tasks))
    axes.barh(places - 0.16, steps.completion_shares, 0.32, color=list(colours.values()))
    axes.barh(places + 0.16, steps.token_shares, 0.32, color="#c9c9c9")
    rows = steps.rows.sum(axis=0) / steps.rows.sum()
    axes.vlines(rows, places - 0.36, places + 0.36, color=INK, linewidth=1.4)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlim(0, None)
    axes.set_xlabel("share of all tasks")
    _task_axis(axes, steps.tasks)


def _draw_steps(axes: Axes, steps: "StepFacts", colours: dict[str, str]) -> None:
    shown = steps.tokens[:_STEPS_SHOWN]
    _frame(axes, f"The first {len(shown)} optimizer steps", "tokens of each task in a step; colours as above")
    tops = shown.cumsum(axis=1)
    for k, task in enumerate(steps.tasks):
        axes.bar(np.arange(1, len(shown) + 1), shown[:, k], 0.85, tops[:, k] - shown[:, k], color=colours[task])
    axes.set(xlabel="optimizer step", ylabel="tokens")
    axes.set_xlim(0.3, len(shown) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.grid(axis="x", visible=False)


def _draw_labels(axes: Axes, tasks: Sequence["InspectedTask"], colours: dict[str, str]) -> None:
    _frame(axes, "Labels in train", "each piece is a label, most frequent first")
    for y, task in enumerate(tasks):
        left = 0.0
        for number, (label, count) in enumerate(task.labels.items()):
            share = count / len(task.kept["train"])
            shade = to_rgba(colours[task.name], 0.35 if number % 2 else 1)
            axes.barh(y, share, 0.7, left, color=shade, edgecolor="white", linewidth=0.6)
            if number < _LABELS_SHOWN and share * 100 > 1.2 * len(label.strip()) + 1:
                ink = INK if number % 2 else "white"
                axes.text(left + share / 2, y, label.strip(), ha="center", va="center", fontsize=8, color=ink)
            left += share
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _task_axis(axes, [task.name for task in tasks])


def _frame(axes: Axes, heading: str, reading: str) -> None:
    title(axes, heading, reading)
    axes.texts[0].set_in_layout(False)  # how to read it may be wider than the panel
    plain(axes)


def _task_axis(axes: Axes, tasks: Sequence[str]) -> None:
    axes.set_yticks(range(len(tasks)), [shortened(task) for task in tasks])
    axes.set_ylim(len(tasks) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
