"""Four figures of a replay: the losses and where each task turned, the weights of a few settings, and of many."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil
from textwrap import fill, wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.replay.findings import TOLERANCE, task_findings
from lightning_coba.simplex.drawing import sheet, shortened
from lightning_coba.simplex.figures import COLOURS, GREY, HAIR, INK, LINESTYLES
from lightning_coba.simplex.records import BalanceTable

PANELS_A_ROW = 3
LONGEST_NAME = 42
LETTER = 0.068  # inches that a letter of the words below a title takes
TURNED = "#bd1f01"
short = partial(shortened, longest=LONGEST_NAME)


def turning_points_figure(table: LossTable) -> Figure:
    """Draw each task's loss ratio in a panel of its own, its lowest point marked: where it began to overfit."""
    figure, panels = _panels(len(table.tasks), height=2.0)
    found = task_findings(table)
    x, x_label = _axis(table)
    for k, (axes, one) in enumerate(zip(panels, found, strict=True)):
        values = table.ratios[:, k]
        axes.plot(x, values, color=INK, linewidth=1.4, marker="o" if len(x) <= 40 else None, markersize=2.5)
        _plain(axes)
        if not one.best_record:
            _panel_title(axes, one.task, "no record")
            continue
        best = one.best_record - 1
        colour = TURNED if one.has_turned else GREY
        axes.plot(x[best], values[best], marker="D", markersize=6, color=colour, zorder=4)
        if one.has_turned:
            axes.axvspan(x[best], x[-1], color=TURNED, alpha=0.07, linewidth=0)
        after = f"{one.rise:+.1%} since its lowest, record {one.best_record}" if one.has_turned else one.state
        _panel_title(axes, one.task, after, TURNED if one.has_turned else GREY)
    figure.supxlabel(x_label, fontsize=9, color=INK)
    figure.supylabel("validation loss / V(0)", fontsize=9, color=INK)
    _heading(
        figure,
        "Where each task was at its best",
        f"diamond = lowest loss; red = it ended more than {TOLERANCE:.0%} above, and more than noise explains. "
        "Each panel has its own scale.",
    )
    return figure


def replayed_weights_figure(results: Mapping[str, BalanceTable]) -> Figure:
    """Draw the weights of each setting in a panel of its own, all at one scale; equal weights are dashed."""
    figure, panels = _panels(len(results), height=2.4, share_y=True)
    lines: list[Any] = []
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        x, x_label = _axis(result)
        lines = [_line(axes, x, result.weight[:, k], k) for k in range(len(result.tasks))]
        axes.axhline(1 / len(result.tasks), color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        _plain(axes)
        _panel_title(axes, name)
    top = max(float(np.nanmax(result.weight)) for result in results.values())
    panels[0].set_ylim(0, min(1.0, 1.06 * top))
    tasks = next(iter(results.values())).tasks
    _legend(figure, lines, tasks)
    figure.supxlabel(x_label, fontsize=9, color=INK)
    figure.supylabel("weight", fontsize=9, color=INK)
    _heading(figure, "Weights that the settings would have chosen", "dashed = equal weights, 1/K")
    return figure


def final_weights_figure(results: Mapping[str, BalanceTable]) -> Figure:
    """Draw the weights after the last record as a map of settings x tasks, relative to equal weights."""
    names, tasks = list(results), next(iter(results.values())).tasks
    values = np.array([result.weight[-1] for result in results.values()]) * len(tasks)
    slanted = max(map(len, tasks)) > 9
    width = 1.2 + 0.075 * max(len(short(name)) for name in names) + max(0.62 * len(tasks), 3.0)
    figure = sheet(width, 1.3 + 0.2 * len(names) + (0.5 if slanted else 0.1), pad=0.08)
    axes = figure.subplots()
    norm = TwoSlopeNorm(1, 0, max(float(values.max()), 1.5))
    image = axes.imshow(values, cmap="RdBu_r", norm=norm, aspect="auto")
    if len(names) <= 60:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if abs(norm(value) - 0.5) > 0.33 else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=7.5)
    slant: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(tasks)), [short(task) for task in tasks], fontsize=8.5, **slant)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02).ax.tick_params(labelsize=7.5, color=GREY)
    _heading(figure, "Weights after the last record, by setting", "in multiples of the equal share 1/K; red = raised")
    return figure


def weight_range_figure(results: Mapping[str, BalanceTable]) -> Figure:
    """Draw for each task the range of its weight over all settings, and the first setting's line in it."""
    name, first = next(iter(results.items()))
    stacked = np.array([result.weight for result in results.values()])
    figure, panels = _panels(len(first.tasks), height=1.9, share_y=True)
    x, x_label = _axis(first)
    for k, axes in enumerate(panels):
        colour = COLOURS[k % len(COLOURS)]
        low, middle, high = np.percentile(stacked[:, :, k], [0, 50, 100], axis=0)
        axes.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0)
        quarter, three = np.percentile(stacked[:, :, k], [25, 75], axis=0)
        axes.fill_between(x, quarter, three, color=colour, alpha=0.3, linewidth=0)
        axes.plot(x, middle, color=colour, linewidth=1.2)
        axes.plot(x, first.weight[:, k], color=INK, linewidth=1.4)
        axes.axhline(1 / len(first.tasks), color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        _plain(axes)
        _panel_title(axes, first.tasks[k], f"ends at {low[-1]:.2f} to {high[-1]:.2f}")
    panels[0].set_ylim(0, min(1.0, 1.06 * float(stacked.max())))
    figure.supxlabel(x_label, fontsize=9, color=INK)
    figure.supylabel("weight", fontsize=9, color=INK)
    _heading(
        figure,
        f"How much the {len(results)} settings differ",
        f"band = all settings, darker = the middle half, line = median; black = {name}; dashed = 1/K",
    )
    return figure


def _panels(count: int, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    columns = 2 if count == 4 else min(PANELS_A_ROW if count <= 9 else 4, count)
    rows = ceil(count / columns)
    figure = sheet(max(3.0 * columns, 6.0), 1.0 + height * rows, pad=0.08)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=share_y).ravel())
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels[max(count - columns, 0) : count]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    return figure, panels[:count]


def _heading(figure: Figure, title: str, how_to_read: str) -> None:
    lines = wrap(how_to_read, int(figure.get_figwidth() / LETTER))
    below = 1 - 0.30 / figure.get_figheight()
    figure.suptitle(title + "\n" * len(lines), x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    figure.text(0.01, below, "\n".join(lines), fontsize=8.5, color=GREY, va="top")


def _panel_title(axes: Axes, title: str, below: str = "", colour: str = GREY) -> None:
    wrapped = fill(short(title), 26)
    axes.set_title(wrapped, loc="left", fontsize=8.5, fontweight="bold", color=INK, pad=15 if below else 5)
    if below:
        axes.annotate(
            below, (0, 1), (0, 4), textcoords="offset points", xycoords="axes fraction", fontsize=8, color=colour
        )


def _axis(table: LossTable | BalanceTable) -> tuple[np.ndarray, str]:
    """Return where the records lie on the horizontal axis, and its name."""
    steps = np.asarray(table.steps)
    if (np.diff(steps) <= 0).any():
        return np.arange(1, len(steps) + 1), "record"
    return steps, "step"


def _line(axes: Axes, x: np.ndarray, values: np.ndarray, k: int) -> Any:
    style = LINESTYLES[k // len(COLOURS) % len(LINESTYLES)]
    (line,) = axes.plot(x, values, color=COLOURS[k % len(COLOURS)], linestyle=style, linewidth=1.5)
    return line


def _legend(figure: Figure, lines: Sequence[Any], tasks: Sequence[str]) -> None:
    columns = ceil(len(tasks) / 24)
    figure.set_figwidth(figure.get_figwidth() + 0.5 + 0.09 * max(len(short(task)) for task in tasks) * columns)
    figure.legend(
        lines, [short(task) for task in tasks], loc="outside right upper", ncols=columns, frameon=False, fontsize=8.5
    )


def _plain(axes: Axes) -> None:
    axes.grid(color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.ticklabel_format(useOffset=False)
