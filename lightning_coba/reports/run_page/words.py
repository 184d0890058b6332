"""Say in sentences what a run did and why each task has the weight that it has."""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from lightning_coba.reports.findings import TaskFinding
from lightning_coba.reports.formats import count, listed, percent
from lightning_coba.reports.result_names import comparative, result_title, written
from lightning_coba.reports.run_page.story import RunStory
from lightning_coba.runs.card import MULTITASK, WHOLE

#: A slope smaller than this is called flat: a change of the loss ratio per record.
FLAT = 1e-4


def headline(story: RunStory) -> list[str]:
    """Return what a reader wants to know first, computed from the numbers."""
    return [_what_was_trained(story), *_results_in_words(story), *_verdicts_in_words(story)]


def _what_was_trained(story: RunStory) -> str:
    run = story.run
    steps = f" for {int(run.steps):,} steps" if isfinite(run.steps) else ""
    verb = {"finished": "trained", "running": "has been training"}.get(run.status, "began to train")
    tasks = f" {count(len(run.tasks), 'task')}" if run.system == MULTITASK else ""
    return f"{run.method} {verb}{tasks}{steps}."


def _results_in_words(story: RunStory) -> list[str]:
    run = story.run
    before, after, better = run.before.values, run.after.values, run.after.better
    title = result_title(run.primary)
    both = [task for task in after if isfinite(before.get(task, np.nan)) and isfinite(after[task])]
    if not both:
        parts = [f"{'' if part == WHOLE else f'{part} '}{written(run.primary, after[part])}" for part in after]
        known = run.system != MULTITASK and parts
        return [f"{title}: {listed(parts)} ({comparative(better)} is better)."] if known else []
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


def in_words(task: TaskFinding, story: RunStory) -> str:
    """Return what happened to a task and what the balancer answered."""
    return f"{_course(task)} {_answer(task, story)}".strip()


def _course(task: TaskFinding) -> str:
    if not task.best_record:
        return "No validation loss was written down."
    text = f"From {task.first:.3f} to {task.last:.3f} ({percent(task.last_ratio - 1)})"
    if task.lowest == task.last:
        return f"{text}, lowest at the end."
    return f"{text}; lowest, {task.lowest:.3f}, at step {task.best_step}, since then {percent(task.rise)}."


def _answer(task: TaskFinding, story: RunStory) -> str:
    weights = story.of_balancer("weight", task.task)
    weights = weights[np.isfinite(weights)]
    if not weights.size or story.balance is None:
        return ""
    equal = 1 / len(story.balance.tasks)
    if np.abs(weights - equal).max() < 1e-9:
        return f"Weight {equal:.3f} throughout, an equal share."
    slope, rcs, acs = (story.of_balancer(column, task.task)[-1] for column in ("slope", "rcs", "acs"))
    factor = story.balance.divergence_factor[-1]
    saw = ""
    if isfinite(slope):
        course = "flat" if abs(slope) < FLAT else "falling" if slope < 0 else "rising"
        saw = f"Slope over the last window {slope:+.4f} per record ({course})"
        if np.isfinite([rcs, acs, factor]).all():
            saw += f"; RCS {rcs:.2f} and ACS {acs:.2f} are mixed {100 * factor:.0f} : {100 - 100 * factor:.0f}"
        saw += ". "
    return (
        f"{saw}Weight {weights[0]:.3f} at first, {weights[-1]:.3f} at the end ({weights[-1] / equal:.2f} of an equal "
        f"share), between {weights.min():.3f} and {weights.max():.3f}."
    )


def _with_changes(tasks: Sequence[TaskFinding]) -> str:
    return listed(f"{task.task} ({percent(task.last_ratio - 1)})" for task in tasks)
