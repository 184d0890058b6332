"""Three figures of a replay: the losses and where each task turned, the weights of a few settings, and of many."""

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from lightning_coba.reports.findings import TOLERANCE, task_findings
from lightning_coba.reports.panels import heading, heat_map, legend_beside, line_style, panel_title, panels
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.simplex.figures import GREY, INK, title
from lightning_coba.simplex.records import BalanceTable

TURNED = "#bd1f01"


def turning_points_figure(table: LossTable) -> Figure:
    """Draw each task's loss ratio in a panel of its own, its lowest point marked: where it began to overfit."""
    x, x_label = _axis(table)
    figure, found = panels(len(table.tasks), 2.0, x_label, "validation loss / V(0)")
    for k, (axes, one) in enumerate(zip(found, task_findings(table), strict=True)):
        values = table.ratios[:, k]
        axes.plot(x, values, color=INK, linewidth=1.4, marker="o" if len(x) <= 40 else None, markersize=2.5)
        if not one.best_record:
            panel_title(axes, one.task, "no record")
            continue
        best, colour = one.best_record - 1, TURNED if one.has_turned else GREY
        axes.plot(x[best], values[best], marker="D", markersize=6, color=colour, zorder=4)
        if one.has_turned:
            axes.axvspan(x[best], x[-1], color=TURNED, alpha=0.07, linewidth=0)
        after = f"{one.rise:+.1%} since its lowest, record {one.best_record}" if one.has_turned else one.state
        panel_title(axes, one.task, after, colour)
    how = (
        f"diamond = lowest loss; red = it ended more than {TOLERANCE:.0%} above, and more than noise explains. "
        "Each panel has its own scale."
    )
    heading(figure, "Where each task was at its best", how)
    return figure


def replayed_weights_figure(results: Mapping[str, BalanceTable]) -> Figure:
    """Draw the weights of each setting in a panel of its own, all at one scale; equal weights are dashed."""
    first = next(iter(results.values()))
    x, x_label = _axis(first)
    figure, found = panels(len(results), 2.4, x_label, "weight", sharey=True)
    for axes, (name, result) in zip(found, results.items(), strict=True):
        lines = [axes.plot(x, result.weight[:, k], **line_style(k))[0] for k in range(len(result.tasks))]
        axes.axhline(1 / len(result.tasks), color=GREY, linewidth=0.9, linestyle="--", zorder=1)
        panel_title(axes, name)
    top = max(float(np.nanmax(result.weight)) for result in results.values())
    found[0].set_ylim(0, min(1.0, 1.06 * top))
    legend_beside(figure, lines, first.tasks)
    heading(figure, "Weights that the settings would have chosen", "dashed = equal weights, 1/K")
    return figure


def final_weights_figure(results: Mapping[str, BalanceTable]) -> Figure:
    """Draw the weights after the last record as a map of settings x tasks, relative to equal weights."""
    tasks = next(iter(results.values())).tasks
    values = np.array([result.weight[-1] for result in results.values()]) * len(tasks)
    norm = TwoSlopeNorm(1, 0, max(float(values.max()), 1.5))
    figure, axes = heat_map(values, list(results), tasks, norm, "RdBu_r", "{:.2f}".format)
    title(axes, "Weights after the last record", "in multiples of the equal share 1/K; red = raised")
    return figure


def _axis(table: LossTable | BalanceTable) -> tuple[np.ndarray, str]:
    """Return where the records lie on the horizontal axis, and its name."""
    steps = np.asarray(table.steps)
    return (np.arange(1, len(steps) + 1), "record") if (np.diff(steps) <= 0).any() else (steps, "step")
