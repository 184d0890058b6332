"""What figures of reports share: a panel for each task or setting, a map of numbers, and how both look."""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from textwrap import fill, wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lightning_coba.reports.statistics import Array
from lightning_coba.simplex.drawing import sheet
from lightning_coba.simplex.figures import COLOURS, GREY, HAIR, INK, LINESTYLES
from lightning_coba.simplex.short_names import shortened

LETTER = 0.068  # inches that a letter of the words below a title takes
#: More numbers than this many rows are colours alone.
MOST_WRITTEN = 60
short = partial(shortened, longest=42)


def panels(
    count: int, height: float, x: str = "", y: str = "", below: float = 0.0, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels in rows of two to four.

    Args:
        count: Number of panels.
        height: Height of one, in inches.
        x: Name of the horizontal axis; "" where the title says it.
        y: Name of the vertical one.
        below: Room for a legend, in inches.
        **shared: ``sharey`` of Matplotlib.
    """
    columns = 2 if count == 4 else min(3 if count <= 9 else 4, count)
    rows = ceil(count / columns)
    figure = sheet(max(3.0 * columns, 6.0), 1.0 + below + height * rows, pad=0.08)
    found = list(figure.subplots(rows, columns, squeeze=False, sharex=True, **shared).ravel())
    for axes in found[:count]:
        plain(axes)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.ticklabel_format(useOffset=False)
    for axes in found[max(count - columns, 0) : count]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    for axes in found[count:]:
        axes.remove()
    for label, name in ((figure.supxlabel, x), (figure.supylabel, y)):
        if name:
            label(name, fontsize=9, color=INK)
    return figure, found[:count]


def panel_title(axes: Axes, title: str, below: str = "", colour: str = GREY) -> None:
    """Name a panel, and say below what it came to."""
    axes.set_title(
        fill(short(title), 26), loc="left", fontsize=8.5, fontweight="bold", color=INK, pad=4 + 11 * bool(below)
    )
    if below:
        place: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points", "xycoords": "axes fraction"}
        axes.annotate(below, (0, 1), fontsize=8, color=colour, **place)


def heading(figure: Figure, title: str, how_to_read: str = "") -> None:
    """Say above all panels what is drawn, and in grey how to read it."""
    lines = wrap(how_to_read, int(figure.get_figwidth() / LETTER))
    below = 1 - 0.30 / figure.get_figheight()
    figure.suptitle(title + "\n" * len(lines), x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    figure.text(0.01, below, "\n".join(lines), fontsize=8.5, color=GREY, va="top")


def legend_beside(figure: Figure, lines: Sequence[Line2D], names: Sequence[str]) -> None:
    """Name lines right of the panels, and widen the figure for it."""
    columns = ceil(len(names) / 24)
    figure.set_figwidth(figure.get_figwidth() + 0.5 + 0.09 * max(len(short(name)) for name in names) * columns)
    looks: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": 8.5}
    figure.legend(lines, [short(name) for name in names], loc="outside right upper", **looks)


def line_style(k: int) -> dict[str, Any]:
    """Return colour and style of the k-th line, alike in every figure."""
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": LINESTYLES[k // len(COLOURS) % len(LINESTYLES)]}


def plain(axes: Axes) -> None:
    """Give a panel a pale grid and two sides."""
    axes.grid(color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=8)


def heat_map(
    values: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    norm: Normalize,
    cmap: str,
    write: Callable[[float], str],
) -> tuple[Figure, Axes]:
    """Draw numbers as colours, and write them out where there are not too many.

    Args:
        values: ``[rows, columns]``.
        rows: Their names.
        columns: Their names.
        norm: From numbers to colours; 0.5 is the middle of the map.
        cmap: Name of the map of colours.
        write: From a number to its text.
    """
    longest_row, longest_column = (max(len(short(name)) for name in names) for names in (rows, columns))
    slanted = longest_column > 9 and len(columns) > 3
    width = 0.9 + 0.08 * longest_row + (0.62 if slanted else max(0.1 * longest_column, 0.62)) * len(columns)
    height = 1.2 + 0.24 * len(rows) + (0.055 * longest_column if slanted else 0.1)
    figure = sheet(max(width, 5.6), height, pad=0.08)
    axes = figure.subplots()
    axes.imshow(values, cmap=cmap, norm=norm, aspect="auto")
    if len(rows) <= MOST_WRITTEN:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if abs(norm(value) - 0.5) > 0.3 else INK
                axes.text(column, row, write(value), ha="center", va="center", fontsize=8, color=colour)
    slant: dict[str, Any] = {"rotation": 38, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(columns)), [short(name) for name in columns], **slant)
    axes.set_yticks(range(len(rows)), [short(name) for name in rows])
    axes.tick_params(length=0, labelcolor=INK, labelsize=8.5)
    axes.spines[:].set_visible(False)
    return figure, axes
