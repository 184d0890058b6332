"""On which seeds and tasks runs are compared, and what a reader must know of it before the numbers."""

from collections.abc import Mapping, Sequence

import numpy as np

from lightning_coba.reports.comparison.grouping import HARDWARE, WHERE_TASKS_ARE, Group, differing_keys
from lightning_coba.reports.formats import as_typed, count, listed
from lightning_coba.reports.statistics import Array
from lightning_coba.runs.collection import Run


def common_seeds(by_method: Mapping[str, Mapping[int | None, Run]]) -> tuple[list[int | None], list[str]]:
    """Return the seeds that all methods have, or the one that most have, and what has to be said about it."""
    every = sorted({seed for runs in by_method.values() for seed in runs}, key=lambda seed: (seed is None, seed or 0))
    common = [seed for seed in every if all(seed in runs for runs in by_method.values())]
    # Ties go to the lower seed.
    common = common or [max(every, key=lambda seed: sum(seed in runs for runs in by_method.values()))]
    missing = [
        f"{label} seed {listed(map(str, lacking))}"
        for label, runs in by_method.items()
        if (lacking := [seed for seed in every if seed not in runs])
    ]
    dropped = [label for label, runs in by_method.items() if not set(common) <= set(runs)]
    without = f", which most methods have; without {', '.join(dropped)}" if dropped else ", which all methods have"
    if not missing:
        return common, []
    return common, [
        f"Compared on {count(len(common), 'seed')} ({listed(map(str, common))}){without}. Missing: "
        f"{'; '.join(missing)}. To use the other seeds, finish those runs or leave the method's folders out."
    ]


def single_task_results(group: Group, tasks: Sequence[str], seeds: Sequence[int | None]) -> tuple[Array, list[str]]:
    """Return each task's primary result when trained alone, over the compared seeds where there are such runs."""
    losses, other_seeds = np.full(len(tasks), np.nan), []
    for k, task in enumerate(tasks):
        alone = [run for run in group.single_task if list(run.tasks) == [task]]
        same = [run for run in alone if run.seed in seeds]
        if alone:
            losses[k] = np.mean([run.after.values[task] for run in same or alone])
            if {run.seed for run in same} != set(seeds):
                other_seeds.append(task)
    notes = []
    if other_seeds:
        notes.append(f"The single-task runs of {', '.join(other_seeds)} do not have all the compared seeds.")
    lacking = [task for task, loss in zip(tasks, losses, strict=True) if np.isnan(loss)]
    if 0 < len(lacking) < len(tasks):
        notes.append(f"No single-task run of {', '.join(lacking)}: the change against single-task is over the others.")
    return losses, notes


def task_notes(group: Group, tasks: Sequence[str]) -> list[str]:
    """Return which tasks are left out, and why."""
    others = dict.fromkeys(task for run in group.runs for task in run.tasks if task not in tasks)
    if not others:
        return []
    return [
        f"The runs have different tasks. Compared on the {count(len(tasks), 'task')} that all have "
        f"({', '.join(tasks)}); without {', '.join(others)}, which were trained on in some runs only."
    ]


def setting_notes(runs: Sequence[Run]) -> list[str]:
    """Return in which settings the runs differ that change no result, or should not."""
    notes = []
    known = [run.settings or {} for run in runs]
    root = WHERE_TASKS_ARE[0]
    if len({tuple(run.tasks) for run in runs}) == 1 and root in differing_keys(known):
        places = sorted({as_typed(settings.get(root)) for settings in known})
        notes.append(f"The data was read from several places; are they the same? {', '.join(places)}.")
    if hardware := [key for key in differing_keys(known) if key.startswith(HARDWARE)]:
        notes.append(f"The runs differ in {', '.join(hardware)}: times are not comparable.")
    return notes
