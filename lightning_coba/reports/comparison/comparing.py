"""The results of comparable runs as arrays over methods, seeds and tasks, and what was done to make them comparable."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_coba.reports.comparison.common_ground import (
    common_seeds,
    setting_notes,
    single_task_results,
    task_notes,
)
from lightning_coba.reports.comparison.grouping import REFERENCE, Group, Suite
from lightning_coba.reports.result_names import result_name
from lightning_coba.reports.statistics import (
    Array,
    best_step_spread,
    bootstrap_interval,
    mean_over,
    mean_rank,
    relative_change,
)
from lightning_coba.runs.card import WHOLE, Better, Objective, Result
from lightning_coba.runs.collection import Run


@dataclass(frozen=True, eq=False)
class Comparison:
    """Hold the results of M methods x S seeds x K tasks, all of them present.

    Results are those at each run's chosen checkpoint, of multitask runs that with the lowest mean validation loss.

    Attributes:
        suite: Name of the suite.
        key: Key of the primary result, such as ``"test_loss"``, by which the methods are ranked.
        better: Direction in which that is better.
        objective: What the checkpoints were chosen by.
        settings: What tells these runs from the suite's others; empty where nothing does.
        methods: The M labels, the best mean result first.
        seeds: The S seeds that all methods have.
        tasks: The K parts of the primary result that all runs have: tasks, or `WHOLE` where it has none.
        reference: Number of the method that the others are measured against; None without a uniform run.
        after: ``[M, S, K]``, the primary result.
        before: ``[M, S, K]``, the same before training; NaN where it was not measured.
        metrics: Key -> ``[M, S, P]`` of the other results; NaN where one was not measured.
        parts: Key -> the P parts of each of these: the K tasks, if it has any of them, else its own.
        metrics_better: Key -> direction in which that is better.
        best_step: ``[M, S, K]``, the step at which each task's objective was best.
        steps: ``[M, S]`` optimizer steps.
        seconds_per_step: ``[M, S]``.
        single_task: ``[K]`` primary result of runs of that task alone, mean over seeds; NaN where there is none.
        curves: Method -> task -> steps ``[T]`` and mean objectives over seeds ``[T]``.
        runs: ``[M][S]``.
        notes: What a reader must know before the numbers.
    """

    suite: str
    key: str
    better: Better
    objective: Objective
    settings: Mapping[str, str]
    methods: Sequence[str]
    seeds: Sequence[int | None]
    tasks: Sequence[str]
    reference: int | None
    after: Array
    before: Array
    metrics: Mapping[str, Array]
    parts: Mapping[str, Sequence[str]]
    metrics_better: Mapping[str, Better]
    best_step: Array
    steps: Array
    seconds_per_step: Array
    single_task: Array
    curves: Mapping[str, Mapping[str, tuple[Array, Array]]]
    runs: Sequence[Sequence[Run]]
    notes: Sequence[str]

    @property
    def name(self) -> str:
        """What the primary result is called, such as "test loss"."""
        return result_name(self.key)

    @property
    def has_parts(self) -> bool:
        """Whether the result is of several tasks, or of one that has a name."""
        return list(self.tasks) != [WHOLE]

    @property
    def mean_name(self) -> str:
        """What the mean of the primary result over its tasks is called."""
        return f"mean {self.name}" if self.has_parts else self.name

    @property
    def mean(self) -> Array:
        """``[M, S]`` primary result, each task counting the same."""
        return self.after.mean(axis=2)

    @property
    def changes(self) -> Array | None:
        """``[M, K]`` change of the primary result against uniform weights; None without a uniform run."""
        if self.reference is None:
            return None
        return np.stack([relative_change(values, self.after[self.reference]) for values in self.after])

    def is_better(self, changes: Array) -> NDArray[np.bool_]:
        """Return which changes of the primary result are for the better."""
        return changes < 0 if self.better == "min" else changes > 0

    @property
    def changes_against_single_task(self) -> Array:
        """``[M, K]``, NaN where no run trained on that task alone."""
        return np.stack([relative_change(values, self.single_task[None]) for values in self.after])

    @property
    def relative_time(self) -> Array:
        """``[M]`` time of an optimizer step relative to uniform; NaN where it is not known."""
        time = mean_over(self.seconds_per_step, axis=1)
        return time / (np.nan if self.reference is None else time[self.reference] or np.nan)

    @property
    def mean_ranks(self) -> Array:
        """``[M]`` rank by the primary result, averaged over seeds and tasks."""
        return mean_rank(self.after if self.better == "min" else -self.after)

    @property
    def best_step_spreads(self) -> Array:
        """``[M, S]`` of the tasks' best steps, as a share of the run's steps."""
        pairs = zip(self.best_step.reshape(-1, len(self.tasks)), self.steps.reshape(-1), strict=True)
        return np.array([best_step_spread(best, steps) for best, steps in pairs]).reshape(self.steps.shape)

    @property
    def worst_base(self) -> str:
        """What a worst task is measured against: single-task runs where every task has one."""
        return "single-task" if np.isfinite(self.single_task).all() else "before training"

    def worst(self, method: int) -> tuple[str, float] | None:
        """Return a method's worst task and its primary result relative to `worst_base`."""
        base = self.single_task if self.worst_base == "single-task" else mean_over(self.before[method], axis=0)
        changes = relative_change(self.after[method], base[None])
        if not np.isfinite(changes).any():
            return None
        worst = int(np.nanargmax(changes if self.better == "min" else -changes))
        return self.tasks[worst], 1 + float(changes[worst])

    def interval(self, method: int) -> tuple[float, float] | None:
        """Return the 95 % interval over tasks of a method's mean change against uniform."""
        return None if self.changes is None else bootstrap_interval(self.changes[method])


def compare(suite: Suite, group: Group) -> Comparison | None:
    """Put the results of comparable runs into arrays; None where no task is common to all of them."""
    by_method: dict[str, dict[int | None, Run]] = {}
    for run in group.runs:
        by_method.setdefault(suite.labels[run.folder], {})[run.seed] = run
    tasks = [task for task in group.runs[0].tasks if all(task in run.tasks for run in group.runs)]
    if not tasks:
        return None
    seeds, seed_notes = common_seeds(by_method)
    key, better = group.runs[0].primary, group.runs[0].after.better
    sign = 1 if better == "min" else -1

    def place_of(label: str) -> float:
        return sign * float(np.mean([[by_method[label][seed].after.values[task] for task in tasks] for seed in seeds]))

    methods = sorted((label for label in by_method if set(seeds) <= set(by_method[label])), key=place_of)
    runs = [[by_method[label][seed] for seed in seeds] for label in methods]
    every = [run for row in runs for run in row]
    single_task, single_notes = single_task_results(group, tasks, seeds)
    uniform = [label for label, row in zip(methods, runs, strict=True) if row[0].method == REFERENCE]
    others = {name: result.better for run in every for name, result in run.others.items()}
    parts = {name: _parts(name, every, tasks) for name in sorted(others)}
    return Comparison(
        suite=suite.name,
        key=key,
        better=better,
        objective=group.runs[0].objective,
        settings=group.settings,
        methods=methods,
        seeds=seeds,
        tasks=tasks,
        reference=methods.index(uniform[0]) if uniform else None,
        after=_per_task(runs, tasks, lambda run, task: run.after.values[task]),
        before=_per_task(runs, tasks, lambda run, task: run.before.values.get(task, np.nan)),
        metrics={name: _per_task(runs, names, _other(name)) for name, names in parts.items()},
        parts=parts,
        metrics_better=others,
        best_step=_per_task(runs, tasks, Run.best_step),
        steps=_per_run(runs, "steps"),
        seconds_per_step=_per_run(runs, "seconds_per_step"),
        single_task=single_task,
        curves={
            label: {task: _mean_curve(row, task) for task in tasks} for label, row in zip(methods, runs, strict=True)
        },
        runs=runs,
        notes=[
            *task_notes(group, tasks),
            *seed_notes,
            *single_notes,
            *setting_notes(every),
            *([f"Several uniform methods; the changes are against {uniform[0]}."] if len(uniform) > 1 else []),
        ],
    )


def _per_task(runs: Sequence[Sequence[Run]], tasks: Sequence[str], value: Callable[[Run, str], float]) -> Array:
    return np.array([[[value(run, task) for task in tasks] for run in row] for row in runs], dtype=np.float64)


def _per_run(runs: Sequence[Sequence[Run]], name: str) -> Array:
    return np.array([[getattr(run, name) for run in row] for row in runs], dtype=np.float64)


def _parts(key: str, runs: Sequence[Run], tasks: Sequence[str]) -> Sequence[str]:
    own = dict.fromkeys(part for run in runs for part in run.others.get(key, Result()).values)
    return tasks if {*own} & {*tasks} else [*own]


def _other(key: str) -> Callable[[Run, str], float]:
    return lambda run, task: run.others.get(key, Result()).values.get(task, np.nan)


def _mean_curve(runs: Sequence[Run], task: str) -> tuple[Array, Array]:
    """Return the steps at which every run has its objective, and the means there."""
    curves = [run.curves.get(task, {}) for run in runs]
    steps = sorted(step for step in curves[0] if all(step in curve for curve in curves))
    return np.array(steps, dtype=np.float64), np.array([np.mean([curve[s] for curve in curves]) for s in steps])
