"""How what has a share stands now: read from the records of a run, written as words, a line or a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import ASCII, SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lightning_coba.log_keys import VAL_LOSS, task_key
from lightning_coba.simplex.protocol import Simplex, simplexes_of
from lightning_coba.simplex.records import Losses

if TYPE_CHECKING:
    import lightning as L

#: A change of the loss ratio per record that is smaller than this is shown as none.
FLAT = 1e-4
#: Records of single training steps are noise each: their direction is that of the means of so many.
STEPS_TO_COMPARE = 10
#: (falls, flat, rises, no value), and the same where the output knows no other letters.
ARROWS, ASCII_ARROWS = ("↓", "→", "↑", ""), ("v", "=", "^", "")


@dataclass(frozen=True)
class Standing:
    """Say how one task, or whatever else has a share, stands; NaN = not available.

    Attributes:
        name: Its name.
        val_loss: Loss of the last validation pass.
        ratio: Last recorded loss / the one before training (or of the first record).
        slope: Change of the ratio per record, as the balancer sees it; without one, from the last records.
        weight: Share in force from now on, as a multiple of the equal share: 1 = 1/K.
        change: Change of that multiple since the record before.
        rcs: Relative convergence score.
        acs: Absolute convergence score.
    """

    name: str
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
        """Return it in a few characters: ``de 0.82↓ 1.03x``; without records its validation loss."""
        loss = self.ratio if isfinite(self.ratio) else self.val_loss
        shown = f" {loss:.2f}{self.arrow(arrows)}" if isfinite(loss) else ""
        return self.name + shown + (f" {self.weight:.2f}x" if isfinite(self.weight) else "")


@dataclass(frozen=True)
class Standings:
    """Hold how everything stands that has a share in one simplex.

    Attributes:
        rows: One entry for each name.
        name: What tells the simplex from another of the run; empty where there is one.
        thing: What the names are names of.
        losses: What the records hold.
        divergence_factor: That of CoBa, else NaN.
    """

    rows: Sequence[Standing]
    name: str = ""
    thing: str = "task"
    losses: Losses = "validation"
    divergence_factor: float = nan


def standings_of(trainer: "L.Trainer", pl_module: "L.LightningModule") -> list[Standings]:
    """Return how everything stands, an entry for each simplex of the run; it waits for the device.

    Before there are records: the validation losses that are logged by task, as ``val_loss/<task>``.
    """
    simplexes = simplexes_of(trainer, pl_module)
    if simplexes:
        return [_of_simplex(trainer, simplex, len(simplexes) > 1) for simplex in simplexes]
    prefix, logged = task_key(VAL_LOSS, ""), trainer.callback_metrics
    names = [key.removeprefix(prefix) for key in logged if key.startswith(prefix)]
    # What is logged with on_step=True is kept under a second name, X_epoch beside X.
    names = [name for name in names if name.removesuffix("_epoch") == name or name.removesuffix("_epoch") not in names]
    rows = [Standing(name, loss) for name in names if isfinite(loss := _val_loss(trainer, name))]
    return [Standings(rows)] if rows else []


def standings_columns(standings: Standings, arrows: Sequence[str] = ARROWS) -> dict[str, list[str]]:
    """Return the columns of a table with one row per name, without those that have no value."""
    rows = standings.rows
    against = "/ before" if standings.losses == "validation" else "train / first"
    columns = {
        standings.thing: [row.name for row in rows],
        "val loss": [_number(row.val_loss, ".3f") for row in rows],
        against: [_number(row.ratio, ".3f") for row in rows],
        "slope": [f"{_number(row.slope, '+.4f')} {row.arrow(arrows)}".strip() for row in rows],
        "weight": [_number(row.weight, ".2f") + "x" * isfinite(row.weight) for row in rows],
        "change": [_number(row.change, "+.2f") for row in rows],
        "RCS": [_number(row.rcs, ".2f") for row in rows],
        "ACS": [_number(row.acs, ".2f") for row in rows],
    }
    return {name: cells for name, cells in columns.items() if any(cells)}


def standings_table(standings: Standings, title: str, unicode: bool = True) -> Table:
    """Return the table for a screen; what has a rising loss is red."""
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
        if name == standings.thing:
            table.add_column(name, overflow="ellipsis", no_wrap=True, min_width=6, max_width=28)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row, cells in zip(standings.rows, zip(*columns.values(), strict=True), strict=True):
        table.add_row(*map(Text, cells), style="red" if row.slope > FLAT else "")
    return table


def _of_simplex(trainer: "L.Trainer", simplex: Simplex, named: bool) -> Standings:
    table = simplex.table()
    trend = _recent_change(table.ratio, simplex.interval)
    slope = np.where(np.isnan(table.slope[-1]), trend, table.slope[-1])
    multiples = len(simplex.names) * table.weight
    change = multiples[-1] - (multiples[-2] if len(multiples) > 1 else 1)
    rows = []
    for k, name in enumerate(simplex.names):
        val_loss = _val_loss(trainer, name)
        if not isfinite(val_loss) and simplex.losses == "validation":
            val_loss = table.loss[-1, k]  # logged by the module under another key
        last = [float(column[-1, k]) for column in (table.ratio, multiples, table.rcs, table.acs)]
        ratio, weight, rcs, acs = last
        rows.append(Standing(name, float(val_loss), ratio, float(slope[k]), weight, float(change[k]), rcs, acs))
    factor = float(table.divergence_factor[-1])
    return Standings(rows, simplex.name if named else "", simplex.thing, simplex.losses, factor)


def _recent_change(ratios: NDArray[np.float64], interval: int | None) -> NDArray[np.float64]:
    """Return the change of the ratios per record from the last records, ``[K]``; NaN where there is one record."""
    n = min(1 if interval is None else STEPS_TO_COMPARE, len(ratios) // 2)
    if n == 0:
        return np.full_like(ratios[-1], nan)
    means = [torch.from_numpy(part).nanmean(dim=0) for part in (ratios[-n:], ratios[-2 * n : -n])]
    return ((means[0] - means[1]) / n).numpy()


def _val_loss(trainer: "L.Trainer", name: str) -> float:
    return float(trainer.callback_metrics.get(task_key(VAL_LOSS, name), nan))


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if isfinite(value) else ""
