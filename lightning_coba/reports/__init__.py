"""Read runs and show them: tables, figures, comparisons, and the metrics file they come from."""

from typing import TYPE_CHECKING, Any

from lightning_coba.log_keys import BALANCE_COLUMNS
from lightning_coba.reports.collection import Run, find_runs, read_run
from lightning_coba.reports.comparison.comparing import Comparison, compare
from lightning_coba.reports.comparison.grouping import Group, Suite, group_suites
from lightning_coba.reports.comparison.report import ComparisonReport, write_comparison_report
from lightning_coba.reports.past_runs.reading import LossTable, read_losses
from lightning_coba.reports.run_page.writing import write_run_page
from lightning_coba.reports.runs import BalanceTable, read_balance
from lightning_coba.reports.statistics import bootstrap_interval
from lightning_coba.reports.tables import before_after_rows, before_after_table, write_before_after

if TYPE_CHECKING:
    from lightning_coba.reports.figures import loss_ratio_figure, scores_figure, weights_figure, write_figures
    from lightning_coba.reports.live import follow
    from lightning_coba.reports.loggers import RunMLflow, RunTensorBoard, RunWandb
    from lightning_coba.reports.metrics_csv import MetricsCSV
    from lightning_coba.reports.replay.figures import (
        final_weights_figure,
        replayed_weights_figure,
        turning_points_figure,
        weight_range_figure,
    )
    from lightning_coba.reports.replay.findings import task_findings
    from lightning_coba.reports.replay.grid import default_settings, name_settings, parse_settings
    from lightning_coba.reports.replay.replaying import replay_settings
    from lightning_coba.reports.replay.report import ReplayReport, write_replay_report

__all__ = [
    "BALANCE_COLUMNS",
    "BalanceTable",
    "Comparison",
    "ComparisonReport",
    "Group",
    "LossTable",
    "MetricsCSV",
    "ReplayReport",
    "Run",
    "RunMLflow",
    "RunTensorBoard",
    "RunWandb",
    "Suite",
    "before_after_rows",
    "before_after_table",
    "bootstrap_interval",
    "compare",
    "default_settings",
    "final_weights_figure",
    "find_runs",
    "follow",
    "group_suites",
    "loss_ratio_figure",
    "name_settings",
    "parse_settings",
    "read_balance",
    "read_losses",
    "read_run",
    "replay_settings",
    "replayed_weights_figure",
    "scores_figure",
    "task_findings",
    "turning_points_figure",
    "weight_range_figure",
    "weights_figure",
    "write_before_after",
    "write_comparison_report",
    "write_figures",
    "write_replay_report",
    "write_run_page",
]

#: Names whose modules import lightning or matplotlib, which takes seconds: loaded when they are first asked for.
_HEAVY = {
    "MetricsCSV": "metrics_csv",
    "ReplayReport": "replay.report",
    "RunMLflow": "loggers",
    "RunTensorBoard": "loggers",
    "RunWandb": "loggers",
    "default_settings": "replay.grid",
    "final_weights_figure": "replay.figures",
    "follow": "live",
    "loss_ratio_figure": "figures",
    "name_settings": "replay.grid",
    "parse_settings": "replay.grid",
    "replay_settings": "replay.replaying",
    "replayed_weights_figure": "replay.figures",
    "scores_figure": "figures",
    "task_findings": "replay.findings",
    "turning_points_figure": "replay.figures",
    "weight_range_figure": "replay.figures",
    "weights_figure": "figures",
    "write_figures": "figures",
    "write_replay_report": "replay.report",
}


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
