from .before_after import (
    before_after_rows as before_after_rows,
    before_after_table as before_after_table,
    write_before_after as write_before_after,
)
from .comparison.comparing import Comparison as Comparison, compare as compare
from .comparison.grouping import Group as Group, Suite as Suite, group_suites as group_suites
from .comparison.report import ComparisonReport as ComparisonReport, write_comparison_report as write_comparison_report
from .findings import task_findings as task_findings
from .live import follow as follow
from .past_runs.loss_table import LossTable as LossTable
from .past_runs.reading import read_losses as read_losses
from .replay.grid import (
    default_settings as default_settings,
    name_settings as name_settings,
    parse_settings as parse_settings,
)
from .replay.replaying import replay_settings as replay_settings
from .replay.report import ReplayReport as ReplayReport, write_replay_report as write_replay_report
from .replay.setting_figures import (
    final_weights_figure as final_weights_figure,
    replayed_weights_figure as replayed_weights_figure,
    turning_points_figure as turning_points_figure,
)
from .run_page.writing import write_run_page as write_run_page
from .statistics import paired_effect as paired_effect
