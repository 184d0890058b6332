"""Two figures of a page about one run: every task's losses, and what slopes the weights answered."""

from collections.abc import Mapping
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_coba.reports.statistics import Array
from lightning_coba.runs.card import Better
from lightning_coba.simplex.drawing import sheet
from lightning_coba.simplex.figures import COLOURS, GREY, HAIR, INK, LINESTYLES, canvas, name_tasks, title
from lightning_coba.simplex.records import BalanceTable

PANELS_A_ROW = 3
#: A training loss is drawn as the mean over this share of its values: single steps are noise.
SMOOTHED = 0.04
TRAINING = "#b5b5b5"
LINES = ("training (smoothed)", "validation", "validation minimum", "validation maximum")


def losses_figure(
    validation: Mapping[str, Mapping[int, float]], training: Mapping[str, Mapping[int, float]], better: Better = "min"
) -> Figure | None:
    """Draw one panel per task: training loss, and the objective in validation with its best; None without either.

    Args:
        validation: Task -> step -> objective, such as the validation loss.
        training: Task -> step -> training loss.
        better: Direction in which the objective is better.
    """
    tasks = [task for task in {**validation, **training} if validation.get(task) or training.get(task)]
    if not tasks:
        return None
    columns = 2 if len(tasks) == 4 else min(PANELS_A_ROW, len(tasks))
    rows = ceil(len(tasks) / columns)
    figure = sheet(max(2.85 * columns, 4.2), 2.05 * rows + 0.45, pad=0.08)
    for number, (task, axes) in enumerate(zip(tasks, figure.subplots(rows, columns, squeeze=False).flat, strict=False)):
        _plain(axes)
        _draw_losses(axes, task, _curve(validation.get(task, {})), _curve(training.get(task, {})), better)
        if number >= len(tasks) - columns:
            axes.set_xlabel("optimizer step", fontsize=8, color=INK)
    for axes in figure.axes[len(tasks) :]:
        axes.remove()
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(
        handles=[handles[name] for name in LINES if name in handles],
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=8.5,
    )
    return figure


def slope_figure(balance: BalanceTable) -> Figure | None:
    """Draw each task's weight against its slope, record by record; None where the balancer has no slopes."""
    there = np.isfinite(balance.slope) & np.isfinite(balance.weight)
    if not there.any():
        return None
    figure, (axes,) = canvas(1, height=4.4)
    title(axes, "Weight against slope", "dot = last record, line = the way there; right of 0 the loss rises")
    _plain(axes)
    axes.axvline(0, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    axes.axhline(1 / len(balance.tasks), color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    lines = []
    for k, task in enumerate(balance.tasks):
        colour, style = COLOURS[k % len(COLOURS)], LINESTYLES[k // len(COLOURS) % len(LINESTYLES)]
        x, y = balance.slope[there[:, k], k], balance.weight[there[:, k], k]
        lines += axes.plot(x, y, color=colour, linestyle=style, linewidth=0.9, alpha=0.5, label=task)
        axes.plot(x[-1:], y[-1:], "o", color=colour, markersize=6)
    axes.set_xlabel("slope: change of the loss ratio per record", color=INK)
    axes.set_ylabel("weight", color=INK)
    name_tasks(figure, {axes: lines})
    return figure


def _draw_losses(
    axes: Axes, task: str, validation: tuple[Array, Array], training: tuple[Array, Array], better: Better
) -> None:
    name = task if len(task) <= 26 else f"{task[:12]}…{task[-13:]}"
    axes.set_title(name, loc="left", fontsize=9, fontweight="bold", color=INK)
    steps, smooth = _smooth(*training)
    if len(smooth) < 2:  # of which no line can be drawn
        smooth = smooth[:0]
    else:
        axes.plot(steps, smooth, color=TRAINING, linewidth=1.2, label=LINES[0])
    steps, losses = validation
    if not len(losses):
        return
    (line,) = axes.plot(steps, losses, color=COLOURS[0], linewidth=1.7, label=LINES[1])
    if len(steps) <= 20:
        line.set(marker="o", markersize=2.5)
    shown = np.concatenate([losses, smooth[len(smooth) // 2 :]])  # the first training losses would dwarf what follows
    margin = 0.08 * max(np.ptp(shown), 1e-3)
    axes.set_ylim(shown.min() - margin, shown.max() + margin)
    best, label = (np.argmin(losses), LINES[2]) if better == "min" else (np.argmax(losses), LINES[3])
    axes.plot(steps[best], losses[best], "o", color=COLOURS[2], markersize=6, fillstyle="none", label=label)
    axes.annotate(
        f"{losses[best]:.3g} at {int(steps[best])}", (1, 1.03), xycoords="axes fraction", ha="right", fontsize=7.5,
        color=GREY,
    )  # fmt: skip


def _curve(losses: Mapping[int, float]) -> tuple[Array, Array]:
    steps = np.array(sorted(losses), dtype=np.float64)
    values = np.array([losses[int(step)] for step in steps], dtype=np.float64)
    there = np.isfinite(values)
    return steps[there], values[there]


def _smooth(steps: Array, values: Array) -> tuple[Array, Array]:
    """Return means over a moving window, each at the window's middle."""
    width = max(int(SMOOTHED * len(values)), 1)
    window = np.full(width, 1 / width)
    if len(values) < 2:
        return steps, values
    return np.convolve(steps, window, "valid"), np.convolve(values, window, "valid")


def _plain(axes: Axes) -> None:
    axes.grid(color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.ticklabel_format(useOffset=False)
