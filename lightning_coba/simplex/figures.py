"""Three figures of a run: how its tasks (or other names) fared, how their weights moved, and why."""

import os
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lightning_coba.simplex.drawing import sheet
from lightning_coba.simplex.records import BalanceTable, Losses
from lightning_coba.simplex.short_names import shortened

# Petroff, "Accessible Color Sequences for Data Visualization", arXiv 2107.02270:
# told apart with any colour vision.
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
LINESTYLES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
INK, GREY, HAIR = "#262626", "#6b6b6b", "#e3e3e3"
LABEL_SIZE = 8.5  # points
LABEL_GAP = 11.5  # points between the centres of two labels, a little more than a line
CALM = 0.1  # weights that stay this close to equal are not magnified further
MOST_LABELS = 10  # more lines than this get a legend
MOST_MARKERS = 40  # more records than this get a plain line


def loss_ratio_figure(balance: BalanceTable, losses: Losses = "validation") -> Figure:
    """Draw each task's loss relative to before training against the optimizer step.

    Args:
        balance: The records.
        losses: What the records hold: losses on validation rows, or, of a balancer that works on training steps, the
            training losses of these.

    Like its two siblings it uses no pyplot state. In a notebook, ``%matplotlib inline`` shows what it
    returns.
    """
    figure, (axes,) = canvas(1, height=4.4)
    before, symbol = ("before training", "V(0)") if losses == "validation" else ("the first record", "L(0)")
    title(
        axes,
        f"{losses.capitalize()} loss relative to {before}",
        f"loss / {symbol}; below 1 = better than {before}",
    )
    _steps(axes, balance)
    axes.axhline(1, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    axes.set_ylabel(f"{losses} loss / {symbol}")
    lines = _draw_lines(axes, balance, balance.ratio)
    name_tasks(figure, {axes: lines})
    return figure


def weights_figure(balance: BalanceTable) -> Figure:
    """Draw the weights of tasks, or whatever has them, as multiples of the equal share; that, 1/K, is dashed at 1."""
    figure, (axes,) = canvas(1, height=4.4)
    title(axes, f"{balance.thing.capitalize()} weights", "multiples of the equal share; dashed = 1, uniform weights")
    _steps(axes, balance)
    axes.axhline(1, color=GREY, linewidth=0.9, linestyle="--", zorder=1)
    axes.set_ylabel("weight / equal share")
    multiples = len(balance.tasks) * balance.weight
    lines = _draw_lines(axes, balance, multiples)
    low, high = _used_range(multiples)
    axes.set_ylim(low, high)
    name_tasks(figure, {axes: lines})
    return figure


def _used_range(multiples: NDArray[np.float64]) -> tuple[float, float]:
    """Return the range that the weights use, no narrower than `CALM` around 1; with 0 where it is near."""
    shown = multiples[np.isfinite(multiples)]
    low, high = (min(shown.min(), 1 - CALM), max(shown.max(), 1 + CALM)) if shown.size else (1 - CALM, 1 + CALM)
    margin = 0.06 * (high - low)
    return (0.0 if 0 <= low < 0.35 * high else low - margin), high + margin


def scores_figure(balance: BalanceTable) -> Figure:
    """Draw what CoBa's weights are made of: both convergence scores, and the factor that mixes them."""
    figure, (relative, absolute, factor) = canvas(3, height=9.0)
    title(relative, "Relative convergence score (RCS)", "high = converges more slowly than the others")
    title(
        absolute,
        "Absolute convergence score (ACS)",
        "high = still improves at its own past pace, low = diverges",
    )
    title(
        factor,
        "Divergence factor (DF)",
        "weight = DF · RCS + (1 - DF) · ACS",
    )
    lines = {}
    for axes, score in ((relative, balance.rcs), (absolute, balance.acs)):
        _steps(axes, balance)
        axes.axhline(1 / len(balance.tasks), color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        axes.set(xlabel="", ylabel="score (sums to 1)")
        lines[axes] = _draw_lines(axes, balance, score)
        _from_zero(axes)
    _steps(factor, balance)
    factor.set_ylabel("share of RCS")
    _draw_line(factor, _axis(balance)[0], balance.divergence_factor)
    _say_if_empty(factor, balance.divergence_factor)
    # The mftcoder form may exceed 1.
    factor.set_ylim(-0.03, max(1.05, factor.get_ylim()[1]))
    name_tasks(figure, lines)
    return figure


def has_scores(balance: BalanceTable) -> bool:
    """Return whether the balancer has convergence scores: CoBa, past its warm-up."""
    return bool(np.isfinite(balance.rcs).any())


def curves(balance: BalanceTable, losses: Losses = "validation") -> dict[str, Figure]:
    """Draw ``loss_ratio``, where losses are recorded, and ``weights``."""
    has_losses = np.isfinite(balance.ratio).any()
    drawn = {"loss_ratio": loss_ratio_figure(balance, losses)} if has_losses else {}
    return drawn | {"weights": weights_figure(balance)}


def write_figures(balance: BalanceTable, folder: str | os.PathLike[str], losses: Losses = "validation") -> list[Path]:
    """Write `loss_ratio.png`, `weights.png` and `scores.png` into a folder, created if need be.

    Args:
        balance: The records, as `read_balance` returns them.
        folder: Where to; files of these names are replaced.
        losses: What the records hold; see `loss_ratio_figure`.

    Returns:
        The paths of those written; a figure of which the records hold no number is left out.
    """
    figures = curves(balance, losses) | ({"scores": scores_figure(balance)} if has_scores(balance) else {})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in figures]


def spread(targets: Sequence[float], gap: float, low: float, high: float) -> NDArray[np.float64]:
    """Move positions apart as little as possible.

    Pool adjacent violators: the positions with the least sum of squared moves among those at least `gap`
    apart.

    Args:
        targets: ``[n]`` wanted positions, in any order.
        gap: Least distance of two positions; smaller where n of them would not fit between `low` and `high`.
        low: Least position.
        high: Greatest position.

    Returns:
        ``[n]`` float64 in the order of `targets`, whose order along the axis is kept.

    Example:
        >>> spread([5.0, 5.0, 9.0], gap=2.0, low=0.0, high=10.0).tolist()
        [4.0, 6.0, 9.0]
    """
    wanted = np.asarray(targets, dtype=np.float64)
    if not len(wanted):
        return wanted
    order = np.argsort(wanted, kind="stable")
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    offsets = gap * np.arange(len(wanted))
    blocks: list[tuple[float, int]] = []  # (mean, size) of labels that touch
    for value in wanted[order] - offsets:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, many = blocks.pop()
            mean, size = (mean * size + before * many) / (size + many), size + many
        blocks.append((mean, size))
    packed = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])
    positions = np.empty_like(wanted)
    positions[order] = np.clip(packed, low, high - gap * (len(wanted) - 1)) + offsets
    return positions


def canvas(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure without pyplot's state, and its panels, one below the other."""
    figure = sheet(8.5, height, pad=0.12)
    return figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


def title(axes: Axes, title: str, reading: str) -> None:
    """Say what is drawn, and below, in grey, how to read it."""
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=20)
    below = {"xytext": (0, 7), "textcoords": "offset points", "xycoords": "axes fraction"}
    axes.annotate(reading, (0, 1), fontsize=9, color=GREY, **below)  # type: ignore[arg-type]


def _axis(balance: BalanceTable) -> tuple[NDArray[np.int64], str]:
    """Return where the records lie on the horizontal axis, and its name."""
    if (np.diff(balance.steps) < 0).any():
        return balance.records, "record (the steps start over: more than one fit)"
    return balance.steps, "optimizer step"


def _steps(axes: Axes, balance: BalanceTable) -> None:
    """Lay out the step axis, the grid, and the records before the first that moved a weight."""
    x, label = _axis(balance)
    first, last = min(int(x[0]), 0), max(int(x[-1]), 1)
    axes.set_xlim(first, last + 0.015 * (last - first))
    axes.set_xlabel(label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.grid(color=HAIR, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=9)
    axes.ticklabel_format(useOffset=False)  # which would be written over the title
    scored = np.asarray(np.isfinite(balance.rcs).any(axis=1))
    # No score at all says nothing about a warm-up: most methods have none.
    if scored.any() and not scored[0]:
        end = float(x[scored.argmax()])
        axes.axvspan(first, end, color="#f4f4f4", linewidth=0, zorder=0)
        if end - first > 0.08 * (last - first):
            left = first + 0.01 * (last - first)
            axes.text(left, 0.015, "equal weights", transform=axes.get_xaxis_transform(), fontsize=7.5, color=GREY)


def _draw_lines(axes: Axes, balance: BalanceTable, values: NDArray[np.float64]) -> list[Line2D]:
    x, _ = _axis(balance)
    lines = [_draw_line(axes, x, values[:, k]) for k in range(len(balance.tasks))]
    for k, (line, name) in enumerate(zip(lines, balance.tasks, strict=True)):
        line.set(label=name, color=COLOURS[k % len(COLOURS)])
        line.set_linestyle(LINESTYLES[k // len(COLOURS) % len(LINESTYLES)])
    _say_if_empty(axes, values)
    return lines


def _draw_line(axes: Axes, x: NDArray[np.int64], values: NDArray[np.float64]) -> Line2D:
    """Draw one curve with its gaps, marking the records that no line would show."""
    there = np.isfinite(values)
    padded = np.pad(there, 1)
    marked = there if len(x) <= MOST_MARKERS else there & ~padded[:-2] & ~padded[2:]
    (line,) = axes.plot(x, np.where(there, values, np.nan), color=INK, linewidth=1.7, solid_capstyle="round")
    line.set(marker="o", markersize=3, markevery=np.flatnonzero(marked).tolist())
    return line


def _say_if_empty(axes: Axes, values: NDArray[np.float64]) -> None:
    if not np.isfinite(values).any():
        why = "none recorded: the run was still in its warm-up, or its method has none"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="bottom", fontsize=9, color=GREY)


def _from_zero(axes: Axes) -> None:
    """Show shares as shares: the axis begins at 0."""
    axes.set_ylim(0, 1.06 * axes.dataLim.y1)


def name_tasks(figure: Figure, panels: Mapping[Axes, Sequence[Line2D]]) -> None:
    """Write each name at the end of its line; where there are too many, in a legend."""
    lines = next(iter(panels.values()))
    if len(lines) > MOST_LABELS:
        names = [shortened(str(line.get_label())) for line in lines]
        columns = ceil(len(lines) / 24)
        figure.set_figwidth(figure.get_figwidth() + 1.3 * (columns - 1))
        # Without markers and a little longer than usual, to show the dashes.
        style: dict[str, Any] = {"frameon": False, "fontsize": LABEL_SIZE, "markerscale": 0}
        style |= {"handlelength": 2.8, "columnspacing": 1}
        figure.legend(lines, names, loc="outside right upper", ncols=columns, **style)
        return
    labels = {axes: [_end_label(line, axes) for line in lines if _ends(line).size] for axes, lines in panels.items()}
    # The layout decides how high a panel is, and that how far apart its labels must be; so it is done once.
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)
    figure.set_layout_engine("none")
    for axes, ends in labels.items():
        ends.reverse()  # of labels that want one place, the first comes to lie on top
        height = axes.bbox.height * 72 / figure.dpi
        targets = [axes.transLimits.transform(label.xy)[1] * height for label in ends]
        for label, position in zip(ends, spread(targets, LABEL_GAP, 0, height), strict=True):
            label.xyann = (label.xyann[0], position / height)


def _ends(line: Line2D) -> NDArray[np.intp]:
    """Return where a line has values; the last of them is its end."""
    return np.flatnonzero(np.isfinite(np.asarray(line.get_ydata(), dtype=float)))


def _end_label(line: Line2D, axes: Axes) -> Annotation:
    """Name a line right of the panel, with its last value and a thin leader to where it ends."""
    x, y = (np.asarray(values, dtype=float)[_ends(line)[-1]] for values in line.get_data())
    return axes.annotate(
        f"{shortened(str(line.get_label()))}  {y:.3g}",
        (x, y),
        xytext=(1.025, 0.5),
        textcoords="axes fraction",
        va="center",
        fontsize=LABEL_SIZE,
        # The palette's light colours are lines, not letters.
        color=[0.6 * channel for channel in to_rgb(line.get_color())],  # type: ignore[arg-type]
        arrowprops={
            "arrowstyle": "-",
            "color": line.get_color(),
            "linewidth": 0.7,
            "relpos": (0, 0.5),
            "shrinkA": 1,
            "shrinkB": 3,
        },
    )
