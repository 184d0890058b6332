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
from lightning_coba.reports.formats import listed
from lightning_coba.reports.result_names import result_name
from lightning_coba.reports.statistics import (
    Array,
    best_step_spread,
    mean_over,
    mean_rank,
    relative_change,
)
from lightning_coba.runs.card import WHOLE, Better, Objective, Result
from lightning_coba.runs.collection import Run


@dataclass(frozen=True, eq=False)
class ComparedResult:
    """Hold one result of M methods x S seeds.

    Attributes:
        better: Direction in which it is better.
        parts: Names of its P parts: the tasks of the comparison, if it has any of them, else its own.
        values: ``[M, S, P]``; NaN where it was not measured.
    """

    better: Better
    parts: Sequence[str]
    values: Array


@dataclass(frozen=True, eq=False)
class Comparison:
    """Hold the results of M methods x S seeds x K tasks, all of them present.

    Results are those at each run's chosen checkpoint, of multitask runs that with the lowest mean validation loss.

    Attributes:
        suite: Name of the suite.
        objective: What the checkpoints were chosen by.
        settings: What tells these runs from the suite's others; empty where nothing does.
        methods: The M labels, the best mean result first.
        seeds: The S seeds that all methods have.
        tasks: The K parts of the primary result that all runs have: tasks, or `WHOLE` where it has none.
        reference: Number of the method that the others are measured against; None without a uniform run.
        results: Key -> result; the first, the primary one, is what the methods are ranked by.
        before: ``[M, S, K]``, the primary result before training; NaN where it was not measured.
        best_step: ``[M, S, K]``, the step at which each task's objective was best.
        steps: ``[M, S]`` optimizer steps.
        seconds_per_step: ``[M, S]``.
        single_task: ``[K]`` primary result of runs of that task alone, mean over seeds; NaN where there is none.
        curves: Method -> task -> steps ``[T]`` and mean objectives over seeds ``[T]``.
        runs: ``[M][S]``.
        notes: What a reader must know before the numbers.
    """

    suite: str
    objective: Objective
    settings: Mapping[str, str]
    methods: Sequence[str]
    seeds: Sequence[int | None]
    tasks: Sequence[str]
    reference: int | None
    results: Mapping[str, ComparedResult]
    before: Array
    best_step: Array
    steps: Array
    seconds_per_step: Array
    single_task: Array
    curves: Mapping[str, Mapping[str, tuple[Array, Array]]]
    runs: Sequence[Sequence[Run]]
    notes: Sequence[str]

    @property
    def key(self) -> str:
        """Key of the primary result, such as ``"test_loss"``."""
        return next(iter(self.results))

    @property
    def better(self) -> Better:
        """Direction in which the primary result is better."""
        return self.results[self.key].better

    @property
    def after(self) -> Array:
        """``[M, S, K]`` primary result."""
        return self.results[self.key].values

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


def compare(suite: Suite, group: Group) -> Comparison | None:
    """Put the results of comparable runs into arrays; None where no task is common to all of them."""
    by_method: dict[str, dict[int | None, Run]] = {}
    for run in group.runs:
        by_method.setdefault(suite.labels[run.folder], {})[run.seed] = run
    tasks = [task for task in group.runs[0].tasks if all(task in run.tasks for run in group.runs)]
    if not tasks:
        return None
    seeds, seed_notes = common_seeds(by_method)
    sign = 1 if group.runs[0].after.better == "min" else -1

    def place_of(label: str) -> float:
        return sign * float(np.mean([[by_method[label][seed].after.values[task] for task in tasks] for seed in seeds]))

    methods = sorted((label for label in by_method if set(seeds) <= set(by_method[label])), key=place_of)
    runs = [[by_method[label][seed] for seed in seeds] for label in methods]
    every = [run for row in runs for run in row]
    single_task, single_notes = single_task_results(group, tasks, seeds)
    uniform = [label for label, row in zip(methods, runs, strict=True) if row[0].method == REFERENCE]
    keys = [group.runs[0].primary, *sorted({key for run in every for key in run.others})]
    results = {key: _result(key, runs, tasks) for key in keys}
    reference = methods.index(uniform[0]) if uniform else None
    return Comparison(
        suite=suite.name,
        objective=group.runs[0].objective,
        settings=group.settings,
        methods=methods,
        seeds=seeds,
        tasks=tasks,
        reference=reference,
        results=results,
        before=_per_task(runs, tasks, lambda run, task: run.before.values.get(task, np.nan)),
        best_step=_per_task(runs, tasks, Run.best_step),
        steps=np.array([[run.steps for run in row] for row in runs]),
        seconds_per_step=np.array([[run.seconds_per_step for run in row] for row in runs]),
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
            *_zero_notes(results[keys[0]], reference),
            *([f"Several uniform methods; the changes are against {uniform[0]}."] if len(uniform) > 1 else []),
        ],
    )


def _per_task(runs: Sequence[Sequence[Run]], tasks: Sequence[str], value: Callable[[Run, str], float]) -> Array:
    return np.array([[[value(run, task) for task in tasks] for run in row] for row in runs], dtype=np.float64)


def _result(key: str, runs: Sequence[Sequence[Run]], tasks: Sequence[str]) -> ComparedResult:
    measured = [run.results[key] for row in runs for run in row if key in run.results]
    own = dict.fromkeys(part for result in measured for part in result.values)
    parts = tasks if {*own} & {*tasks} else [*own]
    values = _per_task(runs, parts, lambda run, part: run.results.get(key, Result()).values.get(part, np.nan))
    return ComparedResult(measured[0].better, parts, values)


def _zero_notes(result: ComparedResult, reference: int | None) -> list[str]:
    """Return which parts have no relative difference, because the loss of uniform weights is 0."""
    if reference is None or result.better == "max":
        return []
    zero = [part for k, part in enumerate(result.parts) if (result.values[reference, :, k] == 0).any()]
    return [f"Left out of the differences, since uniform weights reach 0 there: {listed(zero)}."] if zero else []


def _mean_curve(runs: Sequence[Run], task: str) -> tuple[Array, Array]:
    """Return the steps at which every run has its objective, and the means there."""
    curves = [run.curves.get(task, {}) for run in runs]
    steps = sorted(step for step in curves[0] if all(step in curve for curve in curves))
    return np.array(steps, dtype=np.float64), np.array([np.mean([curve[s] for curve in curves]) for s in steps])
