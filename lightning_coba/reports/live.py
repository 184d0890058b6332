"""A run followed in a notebook: its tasks as a table and as curves, drawn again in place."""

import os
import time
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from lightning_coba.reports.page import PageFigure, PageTable, page_environment
from lightning_coba.reports.run_page.diagnosis import RunStory, read_story
from lightning_coba.reports.run_page.writing import task_table
from lightning_coba.runs.collection import CARD
from lightning_coba.simplex.figures import Losses, loss_ratio_figure, weights_figure
from lightning_coba.simplex.records import BALANCE_FILE, BalanceTable

#: Files that grow while a run goes on; what they show is drawn again when one of them has changed.
WATCHED = (CARD, "metrics.csv", BALANCE_FILE)


class NotebookOutput:
    """An output of a notebook's cell whose contents can be replaced.

    Raises:
        ModuleNotFoundError: IPython is not installed, so this is no notebook.
    """

    def __init__(self) -> None:
        try:
            from IPython.display import HTML, display
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "The live view needs a notebook. Type: pip install -c constraints.txt 'lightning-coba[notebook]'"
            ) from None
        self._html: Callable[[str], Any] = HTML
        self._display = display
        self._handle: Any = None

    def show(self, html: str) -> None:
        """Put HTML in the place of what was shown before."""
        if self._handle is None:
            self._handle = self._display(self._html(html), display_id=True)
        else:
            self._handle.update(self._html(html))


def live_html(
    headline: str, tables: Sequence[PageTable], balance: BalanceTable | None, losses: Losses = "validation"
) -> str:
    """Return a fragment for a notebook: a line, tables, and the curves of loss ratios and weights side by side."""
    drawn = [] if balance is None else [loss_ratio_figure(balance, losses), weights_figure(balance)]
    figures = [PageFigure.of(figure, "", "") for figure in drawn]
    template = page_environment(autoescape=True).from_string(_HTML)
    return template.render(headline=headline, tables=tables, figures=figures)


def follow(folder: str | os.PathLike[str], every_n_seconds: float = 5.0) -> None:
    """Show in a notebook how a run goes that another process trains, until it is over.

    Use it beside ``coba-train`` in a terminal or on a cluster whose files the notebook sees. The table and the curves
    are drawn again when the run has written something new. To stop following, interrupt the cell; the run goes on.

    Args:
        folder: of the run; it need not be there yet.
        every_n_seconds: how often to look.

    Raises:
        ValueError: ``every_n_seconds`` is not positive.
        ModuleNotFoundError: this is no notebook.

    Example:
        ``follow("runs/demo-coba-seed1")``
    """
    if every_n_seconds <= 0:
        raise ValueError(f"`follow.every_n_seconds` must be > 0; got {every_n_seconds}. Give 5, for instance.")
    output, folder, seen = NotebookOutput(), Path(folder), None
    try:
        while True:
            now = _stamps(folder)
            if now != seen:
                seen = now
                html, is_over = _state_of(folder)
                output.show(html)
                if is_over:
                    return
            time.sleep(every_n_seconds)
    except KeyboardInterrupt:
        return


def story_html(story: RunStory) -> str:
    """Return the state of a run as a fragment for a notebook."""
    run = story.run
    steps = f", {run.steps:,.0f} steps" if run.steps > 0 else ""
    tables = [task_table(story)] if any(isfinite(task.last) for task in story.tasks) else []
    return live_html(f"{run.folder.name}: {run.method}, {run.status}{steps}", tables, story.balance, story.losses)


def _state_of(folder: Path) -> tuple[str, bool]:
    """Return what there is to see, and whether nothing more will come."""
    if not (folder / CARD).is_file():
        return live_html(f"Waiting for {folder}: there is no run yet.", [], None), False
    story = read_story(folder)  # a file that is being written is read as far as it goes
    return story_html(story), story.run.status in ("finished", "failed")


def _stamps(folder: Path) -> list[int]:
    return [(folder / name).stat().st_mtime_ns if (folder / name).is_file() else 0 for name in WATCHED]


_HTML = """\
{% from "block.html" import show %}
<p><b>{{ headline }}</b></p>
{% for table in tables %}
{{ show(table) }}
{% endfor %}
<div style="display: flex; flex-wrap: wrap">
{% for figure in figures %}
<img src="{{ figure.data_uri }}" style="flex: 1 1 24rem; min-width: 0; max-width: 44rem">
{% endfor %}
</div>
"""
