"""Named shares that move over time (weights of tasks, of objectives, of masks): their records, tables and figures.

Whoever moves them offers ``simplexes()``; progress bar, files, images and notebook then show them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_coba.log_keys import BALANCE_COLUMNS
from lightning_coba.simplex.records import BalanceTable, read_balance

if TYPE_CHECKING:
    from lightning_coba.simplex.figures import loss_ratio_figure, scores_figure, weights_figure, write_figures
    from lightning_coba.simplex.protocol import MovesSimplex, Simplex, simplexes_of
    from lightning_coba.simplex.trajectory import Trajectory

__all__ = [
    "BALANCE_COLUMNS",
    "BalanceTable",
    "MovesSimplex",
    "Simplex",
    "Trajectory",
    "loss_ratio_figure",
    "read_balance",
    "scores_figure",
    "simplexes_of",
    "weights_figure",
    "write_figures",
]

#: Loaded when a name is first asked for: matplotlib and torch take seconds to import.
_HOMES = {
    "figures": ("loss_ratio_figure", "scores_figure", "weights_figure", "write_figures"),
    "protocol": ("MovesSimplex", "Simplex", "simplexes_of"),
    "trajectory": ("Trajectory",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
