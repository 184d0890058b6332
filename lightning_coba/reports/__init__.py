"""Read runs and show them: tables, figures, comparisons, and the metrics file they come from."""

from typing import TYPE_CHECKING, Any

from lightning_coba.log_keys import BALANCE_COLUMNS
from lightning_coba.reports.collection import Run, find_runs, read_run
from lightning_coba.reports.comparison import Comparison, compare
from lightning_coba.reports.comparison_report import ComparisonReport, write_comparison_report
from lightning_coba.reports.grouping import Group, Suite, group_suites
from lightning_coba.reports.runs import BalanceTable, read_balance
from lightning_coba.reports.statistics import bootstrap_interval
from lightning_coba.reports.tables import before_after_rows, before_after_table, write_before_after

if TYPE_CHECKING:
    from lightning_coba.reports.figures import loss_ratio_figure, scores_figure, weights_figure, write_figures
    from lightning_coba.reports.metrics_csv import MetricsCSV

__all__ = [
    "BALANCE_COLUMNS",
    "BalanceTable",
    "Comparison",
    "ComparisonReport",
    "Group",
    "MetricsCSV",
    "Run",
    "Suite",
    "before_after_rows",
    "before_after_table",
    "bootstrap_interval",
    "compare",
    "find_runs",
    "group_suites",
    "loss_ratio_figure",
    "read_balance",
    "read_run",
    "scores_figure",
    "weights_figure",
    "write_before_after",
    "write_comparison_report",
    "write_figures",
]

#: Names whose modules import lightning or matplotlib, which takes seconds: loaded when they are first asked for.
_HEAVY = {
    "MetricsCSV": "metrics_csv",
    "loss_ratio_figure": "figures",
    "scores_figure": "figures",
    "weights_figure": "figures",
    "write_figures": "figures",
}


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
