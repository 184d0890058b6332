"""How the tasks of a run stand now: read from a balancer's records, written as words, a line or a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan

import lightning as L
import torch
from rich.box import ASCII, SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lightning_coba.balancing.task_balancing import TaskBalancing
from lightning_coba.balancing.task_weights import TaskWeights
from lightning_coba.log_keys import VAL_LOSS, task_key

#: A change of the loss ratio per record that is smaller than this is shown as none.
FLAT = 1e-4
#: Records of single training steps are noise each: their direction is that of the means of so many.
STEPS_TO_COMPARE = 10
#: (falls, flat, rises, no value), and the same where the output knows no other letters.
ARROWS, ASCII_ARROWS = ("↓", "→", "↑", ""), ("v", "=", "^", "")


@dataclass(frozen=True)
class Standing:
    """Say how one task stands; NaN = not available.

    Attributes:
        task: its name.
        val_loss: of the last validation pass.
        ratio: last recorded loss / the one before training (or of the first record).
        slope: change of the ratio per record, as the balancer sees it; without one, from the last records.
        weight: in force from now on.
        change: of the weight, against the record before.
        rcs: relative convergence score.
        acs: absolute convergence score.
    """

    task: str
    val_loss: float = nan
    ratio: float = nan
    slope: float = nan
    weight: float = nan
    change: float = nan
    rcs: float = nan
    acs: float = nan

    def arrow(self, arrows: Sequence[str] = ARROWS) -> str:
        """Return the direction of the loss."""
        if not isfinite(self.slope):
            return arrows[3]
        return arrows[1] if abs(self.slope) < FLAT else arrows[0] if self.slope < 0 else arrows[2]

    def words(self, arrows: Sequence[str] = ARROWS) -> str:
        """Return the task in a few characters: ``de 0.82↓ w.17``; without records its validation loss."""
        loss = self.ratio if isfinite(self.ratio) else self.val_loss
        shown = f" {loss:.2f}{self.arrow(arrows)}" if isfinite(loss) else ""
        return self.task + shown + (f" w{_share(self.weight)}" if isfinite(self.weight) else "")


@dataclass(frozen=True)
class Standings:
    """Hold how the tasks of one balancer stand.

    Attributes:
        tasks: one entry each.
        name: what tells it from another balancer of the run; empty where there is one.
        losses: what the records hold, "validation" or "training".
        divergence_factor: of CoBa, else NaN.
    """

    tasks: Sequence[Standing]
    name: str = ""
    losses: str = "validation"
    divergence_factor: float = nan


def standings_of(trainer: L.Trainer, pl_module: L.LightningModule) -> list[Standings]:
    """Return how the tasks stand, an entry for each balancer of the Trainer; it waits for the device.

    Without a balancer that has records: the validation losses of the module's :class:`~lightning_coba.TaskWeights`.
    """
    balancers = [callback for callback in trainer.callbacks if isinstance(callback, TaskBalancing)]
    found = [_of_balancer(trainer, balancer, len(balancers) > 1) for balancer in balancers if balancer.num_records]
    if found:
        return found
    names = next((child.tasks for child in pl_module.children() if isinstance(child, TaskWeights)), ())
    tasks = [Standing(task, loss) for task in names if isfinite(loss := _val_loss(trainer, task))]
    return [Standings(tasks)] if tasks else []


def standings_columns(standings: Standings, arrows: Sequence[str] = ARROWS) -> dict[str, list[str]]:
    """Return the columns of a table with a row a task, without those that have no value."""
    tasks = standings.tasks
    against = "/ before" if standings.losses == "validation" else "train / first"
    columns = {
        "task": [task.task for task in tasks],
        "val loss": [_number(task.val_loss, ".3f") for task in tasks],
        against: [_number(task.ratio, ".3f") for task in tasks],
        "slope": [f"{_number(task.slope, '+.4f')} {task.arrow(arrows)}".strip() for task in tasks],
        "weight": [_number(task.weight, ".3f") for task in tasks],
        "change": [_number(task.change, "+.3f") for task in tasks],
        "RCS": [_number(task.rcs, ".2f") for task in tasks],
        "ACS": [_number(task.acs, ".2f") for task in tasks],
    }
    return {name: cells for name, cells in columns.items() if any(cells)}


def standings_table(standings: Standings, title: str, unicode: bool = True) -> Table:
    """Return the table for a screen; a task whose loss rises is red."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD if unicode else ASCII,
        padding=(0, 1, 0, 0) if unicode else (0, 1),
        show_edge=False,
    )
    columns = standings_columns(standings, ARROWS if unicode else ASCII_ARROWS)
    for name in columns:
        if name == "task":
            table.add_column(name, overflow="ellipsis", no_wrap=True, min_width=6, max_width=28)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for task, row in zip(standings.tasks, zip(*columns.values(), strict=True), strict=True):
        table.add_row(*map(Text, row), style="red" if task.slope > FLAT else "")
    return table


def _of_balancer(trainer: L.Trainer, balancer: TaskBalancing, named: bool) -> Standings:
    history = balancer.history
    last = {name: history[name][-1].tolist() for name in ("loss", "ratio", "rcs", "acs", "weight")}
    slope, trend = history["slope"][-1], _recent_change(history["ratio"], balancer.interval)
    slopes = torch.where(slope.isnan(), trend, slope).tolist()
    weights = history["weight"]
    before = weights[-2] if len(weights) > 1 else torch.full_like(weights[-1], 1 / len(balancer.tasks))
    change = (weights[-1] - before).tolist()
    tasks = []
    for k, task in enumerate(balancer.tasks):
        val_loss = _val_loss(trainer, task)
        if not isfinite(val_loss) and balancer.losses_shown == "validation":
            val_loss = last["loss"][k]  # logged by the module under another key
        values = {name: last[name][k] for name in ("ratio", "rcs", "acs", "weight")}
        tasks.append(Standing(task, val_loss, slope=slopes[k], change=change[k], **values))
    factor = float(history["divergence_factor"][-1])
    return Standings(tasks, balancer.attribute if named else "", balancer.losses_shown, factor)


def _recent_change(ratios: Tensor, interval: int | None) -> Tensor:
    """Return the change of the ratios per record from the last records, ``[K]``; NaN where there is one record."""
    n = min(1 if interval is None else STEPS_TO_COMPARE, len(ratios) // 2)
    if n == 0:
        return torch.full_like(ratios[-1], nan)
    return (ratios[-n:].nanmean(dim=0) - ratios[-2 * n : -n].nanmean(dim=0)) / n


def _val_loss(trainer: L.Trainer, task: str) -> float:
    return float(trainer.callback_metrics.get(task_key(VAL_LOSS, task), nan))


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if isfinite(value) else ""


def _share(weight: float) -> str:
    """Write a weight without the zero that all of them begin with."""
    return f"{weight:.2f}".replace("0.", ".", 1)
