"""From folders of runs to a folder with the report."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count as count_from
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from lightning_coba.errors import MissingFileError
from lightning_coba.reports.comparison.comparing import Comparison, compare
from lightning_coba.reports.comparison.grouping import Suite, group_suites
from lightning_coba.reports.comparison.headline import headline
from lightning_coba.reports.comparison.method_tables import details_table, left_out_table, summary_table, task_tables
from lightning_coba.reports.comparison.runs_csv import write_runs_csv
from lightning_coba.reports.comparison.times import busy_machine
from lightning_coba.reports.formats import count, first_settings
from lightning_coba.reports.page import PageBlock, PageFigure, PageSection, PageTable, render, render_page
from lightning_coba.reports.result_names import result_name, result_title, superlative
from lightning_coba.runs.collection import find_runs, read_run
from lightning_coba.runs.files import ReportFiles

TITLE = "Comparison of runs"
#: What stands above all comparisons.
BEGIN = "Test numbers are on the test split. Weights were steered, and checkpoints chosen, on the validation split."


@dataclass(frozen=True)
class ComparisonReport:
    """Hold what was written: `folder`, the `sections` of the page, and the number of runs found."""

    folder: Path
    sections: Sequence[PageSection]
    num_runs: int

    def __rich__(self) -> Lines:
        """Show each section's answer and a short table."""
        parts: list[Text | Table] = []
        for section in self.sections:
            parts += [Text(f"\n{section.title}", style="bold"), *section.on_screen()]
            tables = [block for block in section.blocks if isinstance(block, PageTable) and not block.is_text]
            for table in tables[:1]:
                parts.append(table.on_screen("Results are on the TEST split."))
        return Lines(*parts)


def write_comparison_report(paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> ComparisonReport:
    """Compare all runs below some folders and write ``runs.csv``, ``report.md``, ``report.html`` and ``figures/``.

    Args:
        paths: run folders, or trees that hold them at any depth.
        out: folder to write to; files of these names are replaced.

    Raises:
        FileNotFoundError: a path is no folder, or there is no run below any of them.

    Example:
        ``write_comparison_report(["multirun/sweep"], "report")`` is ``coba-report multirun/sweep``.
    """
    paths = [Path(path) for path in paths]
    runs = [read_run(folder) for folder in find_runs(paths)]
    if not runs:
        raise MissingFileError(
            "`write_comparison_report.paths` must hold runs, folders with a run.json; got "
            f"{', '.join(map(str, paths))}, with none.",
            "Give runs/ or multirun/<name>/, where coba-train leaves them.",
        )
    suites = sorted(group_suites(runs), key=lambda suite: not suite.groups)  # what has results comes first
    files = ReportFiles(Path(out))
    files.figures.mkdir(parents=True, exist_ok=True)
    write_runs_csv(files.runs, runs, {folder: label for suite in suites for folder, label in suite.labels.items()})
    given: set[str] = set()
    sections = [section for suite in suites for section in _sections(suite, given)]
    for figure in (block for section in sections for block in section.blocks if isinstance(block, PageFigure)):
        (files.folder / figure.path).write_bytes(figure.png)
    markdown = render("comparison.md", title=TITLE, sections=sections, begin=BEGIN)
    files.markdown.write_text(re.sub(r"\n{3,}", "\n\n", markdown).strip() + "\n", encoding="utf-8")
    files.page.write_text(render_page(TITLE, sections, BEGIN), encoding="utf-8")
    return ComparisonReport(files.folder, sections, len(runs))


def _sections(suite: Suite, anchors: set[str]) -> list[PageSection]:
    """Return one section for each group of comparable runs; the last table of all says what is in none."""
    from lightning_coba.reports.comparison.method_figures import method_styles

    styles = method_styles(list(suite.labels.values()))
    keys = list(suite.groups[0].settings) if len(suite.groups) > 1 else []
    differing = [f"{key} ({', '.join(sorted({g.settings[key] for g in suite.groups}))})" for key in keys]
    not_comparable = [
        f"The runs of {suite.name} differ also in {'; '.join(differing)}: not comparable. Each of these has a section "
        "of its own."
    ]
    sections = []
    for group in suite.groups:
        comparison, anchor = compare(suite, group), _anchor(suite.name, anchors)
        title = suite.name + "".join(f", {key}={value}" for key, value in group.settings.items())
        notes = not_comparable if differing else []
        if comparison is None:
            sentence = "These runs have no task in common: nothing to compare."
            sections.append(PageSection(title, [sentence], notes=notes, anchor=anchor))
        else:
            figures = _figures(comparison, styles, anchor)
            blocks: list[PageBlock] = [summary_table(comparison), *figures, *task_tables(comparison)]
            blocks += [details] if (details := details_table(comparison)) else []
            notes = [*notes, *comparison.notes, *([busy] if (busy := busy_machine(comparison)) else [])]
            sections.append(PageSection(title, headline(comparison), _facts(comparison), notes, blocks, anchor))
    if not sections:
        sections = [PageSection(suite.name, ["No run has finished yet."], anchor=_anchor(suite.name, anchors))]
    if suite.left_out:
        last = sections[-1]
        note = f"{count(len(suite.left_out), 'run')} left out of every number; the last table says which and why."
        sections[-1] = replace(last, notes=[*last.notes, note], blocks=[*last.blocks, left_out_table(suite)])
    return sections


def _figures(comparison: Comparison, styles: Mapping[str, Mapping[str, Any]], anchor: str) -> list[PageFigure]:
    from lightning_coba.reports.comparison import method_figures as draw  # matplotlib takes a second

    objective = comparison.objective
    best = f"{result_name(objective.key)} was {superlative(objective.better)}"
    drawn = {
        "change": (
            draw.change_figure(comparison, styles),
            f"Difference of the {comparison.name} to uniform weights, per task and method.",
        ),
        "curves": (
            draw.curves_figure(comparison, styles),
            f"{result_title(objective.key)} of each task over the run, mean over seeds. The first quarter may begin "
            "outside a panel.",
        ),
        "best-steps": (
            draw.best_steps_figure(comparison),
            f"Step at which each task's {best}, mean over seeds.",
        ),
    }
    return [
        PageFigure.of(figure, (ReportFiles(Path()).figures / f"{anchor}-{name}.png").as_posix(), caption)
        for name, (figure, caption) in drawn.items()
        if figure is not None
    ]


def _facts(comparison: Comparison) -> str:
    seeds = ", ".join(str(seed) for seed in comparison.seeds)
    steps = sorted({int(steps) for steps in comparison.steps.ravel() if np.isfinite(steps)})
    facts = [
        count(len(comparison.methods), "method"),
        *([count(len(comparison.tasks), "task")] if comparison.has_parts else []),
        f"{count(len(comparison.seeds), 'seed')} ({seeds})",
        *([f"{' or '.join(map(str, steps))} steps"] if steps else []),
    ]
    if alone := int(np.isfinite(comparison.single_task).sum()):
        facts.append(f"single-task runs of {count(alone, 'task')}")
    return " · ".join([*facts, *first_settings(comparison.runs[0][0].settings)])


def _anchor(name: str, given: set[str]) -> str:
    """Return a name that is safe for a file and an address, and none of those given before, to which it is added."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-").lower()[:60] or "suite"
    numbered = (f"{safe}-{number}" for number in count_from(2))
    anchor = next(one for one in chain([safe], numbered) if one not in given)
    given.add(anchor)
    return anchor
