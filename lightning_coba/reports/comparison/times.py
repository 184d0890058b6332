"""What a step took with each method against uniform weights, where the machine allows to say so."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.formats import DASH
from lightning_coba.runs.card import mapping, number
from lightning_coba.runs.collection import Run

#: Times that differ by less than this share are called equal: so far two runs of one program differ.
EQUAL = 0.07
#: A machine is busy when this many more processes than the run's own threads want a core, on average.
BUSY = 0.5


def times_in_words(comparison: Comparison) -> list[str]:
    """Return each method's time of a step relative to uniform; a dash where it was not measured or cannot be said."""
    if busy_machine(comparison):
        return [DASH] * len(comparison.methods)
    return [
        DASH if not np.isfinite(ratio) or m == comparison.reference
        else "about equal" if abs(ratio - 1) < EQUAL
        else f"{ratio:.2f}x"
        for m, ratio in enumerate(comparison.relative_time)
    ]  # fmt: skip


def busy_machine(comparison: Comparison) -> str:
    """Return why the times of these runs cannot be compared; empty where they can."""
    runs = [run for row in comparison.runs for run in row]
    loads = {run.folder: load for run in runs if (load := _foreign_load(run)) > BUSY}
    if loads:
        most = max(loads.values())
        return (
            f"Times of a step are not compared: the machine was busy with other work in {len(loads)} of {len(runs)} "
            f"runs (a load of up to {most:.1f} beside the run itself). Run one at a time to compare times."
        )
    if _overlap(runs):
        return (
            "Times of a step are not compared: some runs were under way on one machine at the same time. Run one at a "
            "time to compare times."
        )
    return ""


def _foreign_load(run: Run) -> float:
    """Return how many other processes wanted a core while the run was timed; NaN where it is not known."""
    timing = mapping(run.card.get("timing"))
    return number(timing.get("load")) - number(timing.get("threads"))


def _overlap(runs: Sequence[Run]) -> bool:
    """Return whether two runs were at work on one machine at the same time."""
    by_host: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        timing = mapping(run.card.get("timing"))
        began, ended = number(timing.get("began")), number(timing.get("ended"))
        if np.isfinite(began) and np.isfinite(ended):
            by_host.setdefault(str(timing.get("host")), []).append((began, ended))
    spans = [sorted(of_host) for of_host in by_host.values()]
    return any(later[0] < earlier[1] for span in spans for earlier, later in pairwise(span))
