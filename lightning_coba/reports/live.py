"""A run followed in a notebook: its tasks as a table and as curves, drawn again in place."""

import os
import time
from pathlib import Path

from lightning_coba.errors import UserError
from lightning_coba.reports.page import block_html
from lightning_coba.reports.run_page.story import read_story
from lightning_coba.reports.run_page.writing import task_table
from lightning_coba.runs.files import RunFiles
from lightning_coba.simplex.figures import curves
from lightning_coba.simplex.notebook import NotebookOutput, notebook_html


def follow(folder: str | os.PathLike[str], every_n_seconds: float = 5.0) -> None:
    """Show in a notebook how a run goes that another process trains, until it is over.

    Use it beside ``coba-train`` in a terminal or on a cluster whose files the notebook sees. The table and the curves
    are drawn again when the run has written something new. To stop following, interrupt the cell; the run goes on.

    Args:
        folder: The run folder; it need not be there yet.
        every_n_seconds: Seconds between two looks.

    Raises:
        ValueError: ``every_n_seconds`` is not positive.
        ModuleNotFoundError: This is no notebook.

    Example:
        ``follow("runs/demo-coba-seed1")``
    """
    if every_n_seconds <= 0:
        raise UserError(f"`follow.every_n_seconds` must be > 0; got {every_n_seconds}.", "Give 5, for instance.")
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


def _state_of(folder: Path) -> tuple[str, bool]:
    """Return what there is to see, and whether nothing more will come."""
    if not RunFiles(folder).card.is_file():
        return notebook_html(f"Waiting for {folder}: there is no run yet.", []), False
    story = read_story(folder)  # a file that is being written is read as far as it goes
    run, length = story.run, sum(story.steps.values())
    steps = f", {length:,.0f} steps" if length > 0 else ""
    figures = [] if story.balance is None else [*curves(story.balance, story.losses).values()]
    table = block_html(task_table(story)) if any(task.best_record for task in story.tasks) else ""
    html = notebook_html(f"{run.folder.name}: {run.method}, {run.status}{steps}", [(table, figures)])
    return html, run.status in ("finished", "failed", "diverged")


def _stamps(folder: Path) -> list[int]:
    """Return when the files last changed that grow while a run goes on, those of its phases too."""
    fits = [RunFiles(folder), *map(RunFiles, sorted(folder.glob("*/")))]
    files = [file for fit in fits for file in (fit.card, fit.metrics, fit.balance)]
    return [file.stat().st_mtime_ns if file.is_file() else 0 for file in files]
