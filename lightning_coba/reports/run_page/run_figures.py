"""The figure of a page about one run that the run has not drawn itself: every task's losses."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_coba.log_keys import TRAIN_LOSS, task_key
from lightning_coba.reports.panels import panel_title, panels
from lightning_coba.reports.statistics import Array
from lightning_coba.runs.card import WHOLE, Better, Objective
from lightning_coba.simplex.figures import COLOURS

#: A training loss is drawn as the mean over this share of its values: single steps are noise.
SMOOTHED = 0.04
TRAINING = "#b5b5b5"
Curve = Mapping[int, float]
NOTHING: Curve = {}
LINES = ("training (smoothed)", "validation", "validation minimum", "validation maximum")


def losses_figure(
    validation: Mapping[str, Curve], training: Mapping[str, Curve], objective: Objective | None = None
) -> Figure | None:
    """Draw one panel per task: training loss, and the objective in validation with its best; None without either.

    An objective that is no loss has panels of its own.

    Args:
        validation: Task -> step -> objective.
        training: Task -> step -> training loss.
        objective: What is followed in validation; the validation loss unless given.
    """
    objective = objective or Objective()
    drawn = {task: (validation.get(task, NOTHING), training.get(task, NOTHING)) for task in {**validation, **training}}
    if "loss" not in objective.key:
        drawn = {_panel_name(objective.key, task): (curve, NOTHING) for task, curve in validation.items()}
        drawn |= {_panel_name(TRAIN_LOSS, task): (NOTHING, curve) for task, curve in training.items()}
    drawn = {name: curves for name, curves in drawn.items() if any(curves)}
    if not drawn:
        return None
    figure, found = panels(len(drawn), 2.0, "optimizer step", below=0.1)
    for axes, (name, curves) in zip(found, drawn.items(), strict=True):
        _draw_losses(axes, name, _arrays(curves[0]), _arrays(curves[1]), objective.better)
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    shown = [handles[name] for name in LINES if name in handles]
    figure.legend(handles=shown, loc="outside upper left", ncols=3, frameon=False, fontsize=8.5)
    return figure


def _draw_losses(
    axes: Axes, task: str, validation: tuple[Array, Array], training: tuple[Array, Array], better: Better
) -> None:
    steps, smooth = _smooth(*training)
    if len(smooth):
        axes.plot(steps, smooth, color=TRAINING, linewidth=1.2, label=LINES[0])
    steps, losses = validation
    if not len(losses):
        panel_title(axes, task, f"{smooth[-1]:.3g} at the end" if len(smooth) else "")
        return
    (line,) = axes.plot(steps, losses, color=COLOURS[0], linewidth=1.7, label=LINES[1])
    if len(steps) <= 20:
        line.set(marker="o", markersize=2.5)
    shown = np.concatenate([losses, smooth[len(smooth) // 2 :]])  # the first training losses would dwarf what follows
    margin = 0.08 * max(np.ptp(shown), 1e-3)
    axes.set_ylim(shown.min() - margin, shown.max() + margin)
    best, label = (np.argmin(losses), LINES[2]) if better == "min" else (np.argmax(losses), LINES[3])
    axes.plot(steps[best], losses[best], "o", color=COLOURS[2], markersize=6, fillstyle="none", label=label)
    panel_title(axes, task, f"{losses[best]:.3g} at step {int(steps[best])}")


def _panel_name(key: str, task: str) -> str:
    return key if task == WHOLE else task_key(key, task)


def _arrays(losses: Curve) -> tuple[Array, Array]:
    steps, values = np.array(sorted(losses.items()), dtype=np.float64).reshape(-1, 2).T
    there = np.isfinite(values)
    return steps[there], values[there]


def _smooth(steps: Array, values: Array) -> tuple[Array, Array]:
    """Return means over a moving window, each at the window's middle; nothing of a single value, which is no line."""
    width = max(int(SMOOTHED * len(values)), 1)
    window = np.full(width, 1 / width)
    if len(values) < 2:
        return steps[:0], values[:0]
    return np.convolve(steps, window, "valid"), np.convolve(values, window, "valid")
