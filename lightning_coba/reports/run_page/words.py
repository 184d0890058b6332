"""Say in sentences what a run did and what became of its tasks."""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from lightning_coba.reports.findings import TaskFinding
from lightning_coba.reports.formats import count, listed, percent
from lightning_coba.reports.result_names import comparative, is_of_tasks, result_title, written
from lightning_coba.reports.run_page.story import RunStory
from lightning_coba.reports.statistics import mean_and_deviation
from lightning_coba.runs.card import MULTITASK, WHOLE, Result
from lightning_coba.runs.collection import Run


def headline(story: RunStory) -> list[str]:
    """Return what a reader wants to know first, computed from the numbers."""
    did, *why = story.account or [""]
    first = [did] if did else []
    return [*first, _what_was_trained(story), *_results_in_words(story.run), *_verdicts_in_words(story), *why]


def values_in_words(run: Run, key: str, result: Result) -> str:
    """Return the mean of a result's tasks, or each of its other parts by name."""
    if is_of_tasks(run, result):
        return written(key, mean_and_deviation([*result.values.values()])[0])
    return listed(
        f"{'' if part == WHOLE else f'{part} '}{written(key, value)}" for part, value in result.values.items()
    )


def _what_was_trained(story: RunStory) -> str:
    run, steps = story.run, [*story.steps.values()]
    each = f" ({listed(f'{name} {count:,.0f}' for name, count in story.steps.items())})" if len(steps) > 1 else ""
    length = f" for {sum(steps):,.0f} steps{each}" if isfinite(sum(steps)) else ""
    verb = {"finished": "trained", "running": "has been training"}.get(run.status, "began to train")
    tasks = f" {count(len(run.tasks), 'task')}" if run.system == MULTITASK else ""
    return f"{run.method} {verb}{tasks}{length}."


def _results_in_words(run: Run) -> list[str]:
    before, after, better = run.before.values, run.after.values, run.after.better
    title = result_title(run.primary)
    if not is_of_tasks(run, run.after):
        earlier = f"; before training {values_in_words(run, run.primary, run.before)}" if before else ""
        return [f"{title}: {values_in_words(run, run.primary, run.after)} ({comparative(better)} is better){earlier}."]
    both = [task for task in after if isfinite(before.get(task, np.nan)) and isfinite(after[task])]
    if not both:
        return []
    sign = 1 if better == "min" else -1
    first, last = (float(np.mean([values[task] for task in both])) for values in (before, after))
    gained = sum(sign * after[task] < sign * before[task] for task in both)
    worse = [task for task in both if sign * after[task] > sign * before[task]]
    change = f" ({percent(last / first - 1)})" if first else ""
    return [
        f"{title}: {gained} of {count(len(both), 'task')} better than before training; mean "
        f"{written(run.primary, first)} before, {written(run.primary, last)} after{change}."
        + (f" Worse: {listed(worse)}." if worse else "")
    ]


def _verdicts_in_words(story: RunStory) -> list[str]:
    if {*story.verdicts.values()} <= {"no records", "too few passes"}:  # or there are no tasks
        return []
    worse, overfit, behind = map(story.having, ("worse than at the start", "overfit", "left behind"))
    falling = len(story.having("still falling")) + len(behind)
    since = [f"{task.task} ({percent(task.rise)} since step {task.best_step})" for task in overfit]
    sentences = {
        f"Worse on validation than at the start: {_with_changes(worse)}.": worse,
        f"Overfit, the validation loss rising from its minimum: {listed(since)}.": overfit,
        "No task overfitted by more than noise explains.": not worse and not overfit,
        f"Left behind: {_with_changes(behind)}.": behind,
        f"{count(falling, 'task')} still improved at the end: a longer run may help.": falling,
    }
    return [sentence for sentence, is_so in sentences.items() if is_so]


def _with_changes(tasks: Sequence[TaskFinding]) -> str:
    return listed(f"{task.task} ({percent(task.last_ratio - 1)})" for task in tasks)
