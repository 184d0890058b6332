"""Read a run and show it: tables, figures, and the metrics file they come from."""

from lightning_coba.log_keys import BALANCE_COLUMNS
from lightning_coba.reports.figures import loss_ratio_figure, scores_figure, weights_figure, write_figures
from lightning_coba.reports.metrics_csv import MetricsCSV
from lightning_coba.reports.runs import BalanceTable, read_balance
from lightning_coba.reports.tables import before_after_rows, before_after_table, write_before_after

__all__ = [
    "BALANCE_COLUMNS",
    "BalanceTable",
    "MetricsCSV",
    "before_after_rows",
    "before_after_table",
    "loss_ratio_figure",
    "read_balance",
    "scores_figure",
    "weights_figure",
    "write_before_after",
    "write_figures",
]
