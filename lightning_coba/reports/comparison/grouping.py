"""Which runs may be compared: those of one suite and system that differ in method and seed alone."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_coba.log_keys import task_key
from lightning_coba.reports.formats import as_typed
from lightning_coba.reports.result_names import is_of_tasks
from lightning_coba.runs.card import MULTITASK, WHOLE, Result
from lightning_coba.runs.collection import Run

#: The method that everything is measured against.
REFERENCE = "Uniform"
#: Settings of the hardware, which change the time of a step.
HARDWARE = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.accelerator")
#: Settings that do not change what a run learns: who it is, what watches it, and who computes.
NO_DIFFERENCE = (
    "name", "suite", "system_name", "seed", "data.seed", "system.seed", "resume", "test_before",
    "callbacks.", "logger.",
    "trainer.default_root_dir", "trainer.enable_", "trainer.log_every_n_steps",
    *HARDWARE,
    "data.eval_batch_size", "data.num_proc",
)  # fmt: skip
#: Settings that say where the tasks come from: the tasks themselves are compared.
WHERE_TASKS_ARE = ("data.root", "data.only", "data.tasks")
#: Settings in which the run of a single task may differ from those of several: its length, and how tasks are mixed.
OF_SEVERAL = (
    "trainer.max_steps", "trainer.max_epochs", "trainer.val_check_interval", "scheduler.",
    "data.epoch", "data.mixing", "data.sampling_weights",
)  # fmt: skip
BALANCER = "balancer."
SYSTEM = "system."


@dataclass(frozen=True, eq=False)
class Group:
    """Hold finished runs that may be compared.

    Attributes:
        settings: what tells this group from the suite's others; empty for an only one.
        runs: of several tasks each (or of the suite's only one), by method label and seed.
        single_task: runs of one task alone.
    """

    settings: Mapping[str, str]
    runs: Sequence[Run]
    single_task: Sequence[Run]


@dataclass(frozen=True, eq=False)
class Suite:
    """Hold all runs of a suite that are of one system.

    Attributes:
        name: Name of the suite, with the system where the suite has runs of several.
        labels: Run folder -> method, with its settings where they tell two runs apart.
        groups: of finished runs, the largest first.
        left_out: run -> why it is in no group.
    """

    name: str
    labels: Mapping[Path, str]
    groups: Sequence[Group]
    left_out: Mapping[Run, str]


def group_suites(runs: Iterable[Run]) -> list[Suite]:
    """Sort runs into suites of one system each, and within these into groups that may be compared."""
    suites: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in map(_by_part, runs):
        suites[run.suite, run.system].append(run)
    systems = Counter(suite for suite, _ in suites)
    return [
        _group_suite(f"{suite}, system={system}" if systems[suite] > 1 else suite, suites[suite, system])
        for suite, system in sorted(suites)
    ]


def _by_part(run: Run) -> Run:
    """Return a run of which each result is of its tasks or of the whole.

    Other parts may be of any kind (a score on clean rows, a rate of detection): each becomes a result of its own, since
    no mean over them means anything.
    """
    if run.system == MULTITASK:
        return run
    results, before = _split(run, run.results), _split(run, run.results_before)
    return replace(run, results=results, results_before=before, tasks=[*next(iter(results.values()), Result()).values])


def _split(run: Run, results: Mapping[str, Result]) -> dict[str, Result]:
    found = {}
    for key, result in results.items():
        if is_of_tasks(run, result) or WHOLE in result.values:
            found[key] = result
        else:
            found |= {task_key(key, part): Result({WHOLE: v}, result.better) for part, v in result.values.items()}
    return found


def method_labels(runs: Iterable[Run]) -> dict[Path, str]:
    """Name each run's method, and those of its settings that other runs of this method have otherwise."""
    by_method: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_method[run.method].append(run)
    labels = {}
    for method, same in by_method.items():
        methods = {run.folder: _method_settings(run) for run in same}
        differing = differing_keys([settings for settings in methods.values() if settings])
        for folder, settings in methods.items():
            listed = ", ".join(f"{key}={as_typed(settings.get(key))}" for key in differing) if settings else ""
            labels[folder] = f"{method} ({listed})" if listed else method
    return labels


def differing_keys(several: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys under which not all have the same value; a missing key is a null."""
    keys = dict.fromkeys(key for one in several for key in one)
    return [key for key in keys if len({json.dumps(one.get(key), default=str) for one in several}) > 1]


def _group_suite(name: str, runs: Sequence[Run]) -> Suite:
    left_out = {run: "it has no config.yaml: its settings are not known" for run in runs if run.settings is None}
    left_out |= {run: run.error or run.status for run in runs if not run.is_complete}
    keys = Counter(run.primary for run in runs if run.is_complete)
    usual = max(keys, key=lambda key: keys[key], default="")
    left_out |= {
        run: f"its first result is {run.primary}, that of the others {usual}"
        for run in runs
        if run.is_complete and run.primary != usual
    }
    complete = [run for run in runs if run not in left_out]
    several = max((len(run.tasks) for run in complete), default=0) > 1
    singles = [run for run in complete if several and len(run.tasks) == 1]
    rest = [run for run in complete if run not in singles]
    labels = method_labels(run for run in runs if run not in singles) | {run.folder: "single task" for run in singles}

    differing = differing_keys([_compared(run) for run in rest])
    by_settings: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in rest:
        by_settings[tuple(as_typed((run.settings or {}).get(key)) for key in differing)].append(run)
    groups = []
    for values, members in sorted(by_settings.items(), key=lambda item: (-len(item[1]), item[0])):
        kept = _once(members, labels, left_out)
        fitting = [run for run in singles if _fits(run, members[0])]
        groups.append(Group(dict(zip(differing, values, strict=True)), kept, _once(fitting, labels, left_out)))
    used = {run for group in groups for run in group.single_task}
    for run in singles:
        if run not in used:
            left_out.setdefault(run, "trained alone on its task, with other settings than the runs of several tasks")
    return Suite(name, labels, groups, left_out)


def _once(runs: Sequence[Run], labels: Mapping[Path, str], left_out: dict[Run, str]) -> list[Run]:
    """Return the runs with one for each method, seed and, for a single task, task; put the others to `left_out`."""
    kept: dict[tuple[Any, ...], Run] = {}
    for run in sorted(runs, key=lambda run: (labels[run.folder], run.seed is None, run.seed or 0, str(run.folder))):
        alone = tuple(run.tasks) if labels[run.folder] == "single task" else ()
        first = kept.setdefault((labels[run.folder], run.seed, alone), run)
        if first is not run:
            left_out[run] = f"the same method, settings and seed as {first.folder}"
    return list(kept.values())


def has_balancer(run: Run) -> bool:
    """Return whether a balancer moved weights in the run; False where its settings are unknown."""
    return any(key.startswith(BALANCER) for key in run.settings or {})


def _method_settings(run: Run) -> dict[str, Any]:
    settings = run.settings or {}
    # A file of an earlier phase lies in the run's own folder: every run has another one.
    own = str(settings.get("trainer.default_root_dir") or run.folder).removesuffix(f"/{settings.get('phase')}")
    return {
        # TaskBalancing wraps the balancer; its fields are what one would name.
        key.removeprefix(BALANCER).removeprefix(BALANCER): value
        for key, value in settings.items()
        if key.startswith(_of_method(run)) and not key.startswith(NO_DIFFERENCE)
        if not key.endswith("_target_") and not str(value).startswith(own)
    }


def _of_method(run: Run) -> tuple[str, ...]:
    """Return which settings are the method's: the balancer's, and those of a system that is itself the method."""
    return (BALANCER,) if run.system == MULTITASK else (BALANCER, SYSTEM)


def _compared(run: Run) -> dict[str, Any]:
    ignored = (*NO_DIFFERENCE, *WHERE_TASKS_ARE, *_of_method(run))
    return {key: value for key, value in (run.settings or {}).items() if not key.startswith(ignored)}


def _fits(single: Run, run: Run) -> bool:
    """Whether the run of a single task differs from a run of several in nothing that it need not."""
    return all(key.startswith(OF_SEVERAL) for key in differing_keys([_compared(single), _compared(run)]))
