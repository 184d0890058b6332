"""From the losses of a past run and a few settings to a folder with the answer."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Group as Lines
from rich.text import Text

from lightning_coba.balancers import Balancer
from lightning_coba.errors import UserError
from lightning_coba.reports.findings import TaskFinding, task_findings
from lightning_coba.reports.formats import count, listed
from lightning_coba.reports.page import PageFigure, PageSection, PageText, render_page
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.replay.grid import name_settings
from lightning_coba.reports.replay.replaying import most_different, replay_settings
from lightning_coba.reports.replay.setting_findings import SettingFinding, setting_finding
from lightning_coba.reports.replay.setting_tables import settings_table, tasks_table, write_settings, write_weights
from lightning_coba.reports.replay.verdict import notes, verdict
from lightning_coba.runs.files import ReportFiles
from lightning_coba.simplex.records import BalanceTable

#: More settings than this are shown as a map, beside the panels of a few.
MOST_PANELS = 8
ON_SCREEN = ("setting", "from record", "largest weight", "change", "DF")


@dataclass(frozen=True, eq=False)
class ReplayReport:
    """Hold what was found and written.

    Attributes:
        folder: where to.
        table: the losses.
        results: setting -> its records.
        tasks: how each task fared.
        settings: what each setting did.
        verdict: the answer in sentences, the most important first.
        notes: what to know before trusting it.
    """

    folder: Path
    table: LossTable
    results: Mapping[str, BalanceTable]
    tasks: Sequence[TaskFinding]
    settings: Sequence[SettingFinding]
    verdict: Sequence[str]
    notes: Sequence[str]

    @property
    def facts(self) -> str:
        """What was read, in a line."""
        steps = f"{count(self.table.num_records, 'record')}, steps {self.table.steps[0]} to {self.table.steps[-1]}"
        tasks = f"{len(self.table.tasks)} tasks ({listed(self.table.tasks)})"
        return f"{self.table.source or 'losses'} · {tasks} · {steps}"

    @property
    def page(self) -> PageSection:
        """The answer with its notes, which the page and the screen begin with."""
        return PageSection("", self.verdict, self.facts, self.notes)

    def __rich__(self) -> Lines:
        """Show the answer and a short table, at most a screen of it."""
        shown = most_different(self.results)
        more = len(self.settings) - len(shown)
        caption = f"These differ most; {more} more are in replay.html and settings.csv." if more else None
        settings = settings_table(self.table, [one for one in self.settings if one.name in shown])
        screen = settings.only(ON_SCREEN).on_screen(caption)
        return Lines(Text(f"{self.facts}\n", style="bright_black"), *self.page.on_screen(), screen)


def write_replay_report(
    table: LossTable, settings: Mapping[str, Balancer] | Sequence[Balancer], out: str | os.PathLike[str]
) -> ReplayReport:
    """Replay settings on a past run and write ``replay.html``, ``weights.csv``, ``settings.csv`` and ``figures/``.

    Args:
        table: the losses, as `read_losses` returns them.
        settings: balancers, by name or not; the verdict is about the first.
        out: folder to write to; files of these names are replaced.

    Raises:
        ValueError: there is one task alone, or a setting cannot be replayed.

    Example:
        ``write_replay_report(read_losses("runs/x"), [CoBa()], "replay")`` is ``coba-replay runs/x --balancer coba``.
    """
    if len(table.tasks) < 2:
        raise UserError(
            f"`write_replay_report.table` must have two tasks or more; got {listed(table.tasks)} alone, whose weight "
            "is 1 whatever balances.",
            "Give a run of several tasks.",
        )
    if table.num_records < 2:
        name = table.source or "`write_replay_report.table`"
        raise UserError(
            f"{name} has {count(table.num_records, 'record')}, and a slope needs two.",
            "Give the losses of several validation passes, one row per pass.",
        )
    given = name_settings(settings)
    results = replay_settings(table, given)
    tasks = task_findings(table)
    found = [setting_finding(name, result) for name, result in results.items()]
    report = ReplayReport(
        folder=Path(out),
        table=table,
        results=results,
        tasks=tasks,
        settings=found,
        verdict=verdict(table, tasks, found, next(iter(results.values()))),
        notes=notes(table, results, given),
    )
    _write(report)
    return report


def _write(report: ReplayReport) -> None:
    ReportFiles(report.folder).figures.mkdir(parents=True, exist_ok=True)
    losses, *figures = _figures(report)
    for figure in (losses, *figures):
        (report.folder / figure.path).write_bytes(figure.png)
    write_weights(report.folder / "weights.csv", report.results)
    write_settings(report.folder / "settings.csv", report.table, report.settings)
    read = PageText("What was read", report.table.notes)
    settings = settings_table(report.table, report.settings)
    section = replace(report.page, blocks=[tasks_table(report.tasks), losses, settings, *figures, read])
    page = render_page("Replay of a past run", [section])
    (report.folder / "replay.html").write_text(page, encoding="utf-8")


def _figures(report: ReplayReport) -> list[PageFigure]:
    from lightning_coba.reports.replay import setting_figures as draw  # matplotlib takes a second
    from lightning_coba.simplex.figures import scores_figure

    results, (name, first) = report.results, next(iter(report.results.items()))
    many = len(results) > MOST_PANELS
    shown = most_different(results) if many else results
    which = f" of {len(shown)} of the {len(results)} settings, those that differ most" if many else ""
    figures = {
        "losses": (
            draw.turning_points_figure(report.table),
            "Validation loss of each task relative to V(0). The diamond marks its lowest point.",
        ),
        "weights": (draw.replayed_weights_figure(shown), f"Weights over the run{which}."),
    }
    if many:
        figures["final-weights"] = (
            draw.final_weights_figure(results),
            "Weight of each task after the last record, in multiples of the equal share, by setting.",
        )
    if not math.isnan(report.settings[0].divergence_factor):
        figures["scores"] = (scores_figure(first), f"What the weights of {name} are made of.")
    folder = ReportFiles(report.folder).figures.name
    return [PageFigure.of(figure, f"{folder}/{key}.png", caption) for key, (figure, caption) in figures.items()]
