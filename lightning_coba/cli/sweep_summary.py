import shlex
from collections import Counter
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from lightning_coba.runs.files import RunFiles

EVENTS = ("finished", "already there", "elsewhere", "refused", "failed", "interrupted")
STYLES = {"failed": "red", "refused": "yellow", "interrupted": "yellow"}
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
SHOWN_AS = {"elsewhere": "trained by another process"}


class Outcome(NamedTuple):
    """What became of a job: one of ``EVENTS``, its folder, and the first line of its error."""

    event: str
    folder: str
    error: str = ""


def print_summary(outcomes: list[Outcome], folder: str, again: list[str]) -> None:
    """Print what became of the jobs of a sweep, and what to type next.

    Args:
        outcomes: of the jobs that were started.
        folder: of the sweep.
        again: the command that goes on with what is there; empty for none.
    """
    console = Console()
    counts = Counter(outcome.event for outcome in outcomes)
    said = ", ".join(f"{counts[event]} {SHOWN_AS.get(event, event)}" for event in EVENTS if counts[event])
    console.print(f"\nSweep {folder}: {said}", **PLAIN)
    ordered = sorted(outcomes, key=lambda outcome: (EVENTS.index(outcome.event), outcome.error))
    for (event, error), alike in groupby(ordered, attrgetter("event", "error")):
        for outcome in alike:
            console.print(f"  {event:13}  {Path(outcome.folder).name}", style=STYLES.get(event), **PLAIN)
        if error:
            console.print(f"  {'':13}  {error}", **PLAIN)
    if counts["failed"]:
        console.print(f"A failed job's folder holds {RunFiles.error}.")
    console.print("Next:")
    if again:
        console.print(f"  {shlex.join(again)}  (runs only what is missing)", **PLAIN)
    console.print(f"  coba-report {shlex.quote(folder)}", **PLAIN)
