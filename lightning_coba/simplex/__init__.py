"""Named shares that move over time (weights of tasks, of objectives, of masks): their records, tables and figures."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_coba.log_keys import BALANCE_COLUMNS
from lightning_coba.simplex.records import BalanceTable, read_balance

if TYPE_CHECKING:
    from lightning_coba.simplex.figures import loss_ratio_figure, scores_figure, weights_figure, write_figures

__all__ = [
    "BALANCE_COLUMNS",
    "BalanceTable",
    "loss_ratio_figure",
    "read_balance",
    "scores_figure",
    "weights_figure",
    "write_figures",
]


def __getattr__(name: str) -> Any:
    # matplotlib takes a second to import.
    if name in ("loss_ratio_figure", "scores_figure", "weights_figure", "write_figures"):
        return getattr(import_module("lightning_coba.simplex.figures"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
