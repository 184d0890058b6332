"""Read runs and show them: tables, figures, comparisons, and the metrics file they come from."""

from typing import TYPE_CHECKING, Any

from lightning_coba.reports.before_after import before_after_rows, before_after_table, write_before_after
from lightning_coba.reports.comparison.comparing import Comparison, compare
from lightning_coba.reports.comparison.grouping import Group, Suite, group_suites
from lightning_coba.reports.comparison.report import ComparisonReport, write_comparison_report
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.past_runs.reading import read_losses
from lightning_coba.reports.run_page.writing import write_run_page
from lightning_coba.reports.statistics import bootstrap_interval

if TYPE_CHECKING:
    from lightning_coba.reports.findings import task_findings
    from lightning_coba.reports.live import follow
    from lightning_coba.reports.replay.grid import default_settings, name_settings, parse_settings
    from lightning_coba.reports.replay.replaying import replay_settings
    from lightning_coba.reports.replay.report import ReplayReport, write_replay_report
    from lightning_coba.reports.replay.setting_figures import (
        final_weights_figure,
        replayed_weights_figure,
        turning_points_figure,
    )

__all__ = [
    "Comparison",
    "ComparisonReport",
    "Group",
    "LossTable",
    "ReplayReport",
    "Suite",
    "before_after_rows",
    "before_after_table",
    "bootstrap_interval",
    "compare",
    "default_settings",
    "final_weights_figure",
    "follow",
    "group_suites",
    "name_settings",
    "parse_settings",
    "read_losses",
    "replay_settings",
    "replayed_weights_figure",
    "task_findings",
    "turning_points_figure",
    "write_before_after",
    "write_comparison_report",
    "write_replay_report",
    "write_run_page",
]

#: Names whose modules import lightning or matplotlib, which takes seconds: loaded when they are first asked for.
_HEAVY = {
    "ReplayReport": "replay.report",
    "default_settings": "replay.grid",
    "final_weights_figure": "replay.setting_figures",
    "follow": "live",
    "name_settings": "replay.grid",
    "parse_settings": "replay.grid",
    "replay_settings": "replay.replaying",
    "replayed_weights_figure": "replay.setting_figures",
    "task_findings": "findings",
    "turning_points_figure": "replay.setting_figures",
    "write_replay_report": "replay.report",
}


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
