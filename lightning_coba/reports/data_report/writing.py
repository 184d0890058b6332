"""From an inspection of data to a picture, a page, and what is shown on the screen."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from lightning_coba.reports.data_report.tables import label_table, run_sentence, split_table, step_table, task_table
from lightning_coba.reports.formats import count
from lightning_coba.reports.page import PageBlock, PageFigure, PageSection, PageTable, render

if TYPE_CHECKING:
    from lightning_coba.inspection.example import Example
    from lightning_coba.inspection.findings import Finding
    from lightning_coba.inspection.inspecting import Inspection

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_PROMPT_CHARACTERS_ON_SCREEN = 160
_FINDINGS_ON_SCREEN = 12
_CAPTION = (
    "Token lengths by task and split; share of an epoch by task; what the first optimizer steps hold; the balance of "
    "labels, where completions are labels."
)


@dataclass(frozen=True)
class DataReport:
    """Hold what was found and where it was written; print it with `rich`."""

    inspection: "Inspection"
    folder: Path

    def __rich__(self) -> Group:
        """Show findings, tables and examples, short enough for one or two screens."""
        found = self.inspection
        parts: list[RenderableType] = []
        if found.tasks:
            parts += _on_screen(task_table(found.tasks, found.steps))
        if found.steps is not None:
            parts += [*_on_screen(step_table(found.steps, most=4)), Text(run_sentence(found.steps))]
        if found.forecast is not None:
            parts += [Text("\nWhat it will cost", style="bold"), *map(Text, found.forecast.sentences())]
        if found.examples:
            parts.append(Text("\nA row of each task: dim is read, green is learned\n", style="italic"))
        parts += map(_example_line, found.examples)
        parts.append(Text(f"\n{headline(found)[0]}", style="bold"))
        parts += map(_finding_lines, found.findings[:_FINDINGS_ON_SCREEN])
        if more := len(found.findings[_FINDINGS_ON_SCREEN:]):
            parts.append(Text(f"  and {more} more in data.html", style="dim"))
        return Group(*parts)


def write_data_report(
    inspection: "Inspection", out: str | os.PathLike[str], title: str, max_length: int, facts: str
) -> DataReport:
    """Write ``data.png`` and ``data.html`` about some data.

    Args:
        inspection: What `inspect_data` found.
        out: Folder to write to; files of these names are replaced.
        title: Where the data lies.
        max_length: Tokens that a row may have.
        facts: What else it was read with, in one line.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    blocks: list[PageBlock] = []
    if inspection.tasks:
        blocks.append(task_table(inspection.tasks, inspection.steps))
    picture = folder / "data.png"
    picture.unlink(missing_ok=True)  # an older one would be of other data
    if inspection.steps is not None:
        from lightning_coba.reports.data_report.figure import data_figure  # matplotlib takes a second

        drawn = PageFigure.of(data_figure(inspection, max_length), picture.name, _CAPTION)
        picture.write_bytes(drawn.png)
        blocks += [drawn, step_table(inspection.steps)]
    if labelled := [task for task in inspection.tasks if task.labels]:
        blocks.append(label_table(labelled))
    if inspection.tasks:
        blocks.append(split_table(inspection.tasks))
    page = render(
        "data.html",
        title=f"Data of {title}",
        answer=PageSection("", headline(inspection), facts),
        findings=inspection.findings,
        numbers=PageSection("Numbers", [], blocks=blocks),
        examples=inspection.examples,
    )
    (folder / "data.html").write_text(page, encoding="utf-8")
    return DataReport(inspection, folder)


def headline(inspection: "Inspection") -> list[str]:
    """Return the answer in words: whether training would run, and on what."""
    counts: Counter[str] = Counter(finding.level for finding in inspection.findings)
    told = [count(counts[level], level) for level in _STYLES if counts[level]]
    verdict = "Training would stop" if inspection.stops_training else "Training would run"
    sentences = [f"{verdict}: {', '.join(told) or 'nothing to correct'}."]
    if inspection.steps is not None:
        sentences.append(run_sentence(inspection.steps))
    return sentences if inspection.forecast is None else [*sentences, *inspection.forecast.sentences()]


def _on_screen(table: PageTable) -> list[RenderableType]:
    return [Text(f"\n{table.title}", style="bold"), table.on_screen(table.caption)]


def _finding_lines(finding: "Finding") -> Padding:
    text = Text.assemble(
        (finding.level, _STYLES[finding.level]),
        (f" {finding.task}: " if finding.task else ": ", "bold"),
        f"{finding.what}. ",
        (finding.cure, "italic"),
        (f" [{finding.place}]" if finding.place else "", "dim"),
    )
    return Padding(text, (0, 0, 0, 2))


def _example_line(example: "Example") -> Text:
    text = Text.assemble((example.task, "bold"), "  ")
    for piece in example.pieces:
        shown = piece.text.replace("\n", "↵")
        if not piece.learned and len(shown) > _PROMPT_CHARACTERS_ON_SCREEN:
            shown = "…" + shown[-_PROMPT_CHARACTERS_ON_SCREEN:]
        style = "bold green" if piece.learned else "dim"
        text.append(shown, style=f"{style} reverse" if piece.special else style)
    return text
