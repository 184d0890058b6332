"""Say in sentences what a run did and why each task has the weight that it has."""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from lightning_coba.reports.formats import count, percent
from lightning_coba.reports.result_names import comparative, result_title, written
from lightning_coba.reports.run_page.diagnosis import BURNT_OUT, RunStory, TaskDiagnosis
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
        return [f"{title}: {_listed(parts)} ({comparative(better)} is better)."] if known else []
    sign = 1 if better == "min" else -1
    first, last = (float(np.mean([values[task] for task in both])) for values in (before, after))
    gained = sum(sign * after[task] < sign * before[task] for task in both)
    worse = [task for task in both if sign * after[task] > sign * before[task]]
    change = f" ({percent(last / first - 1)})" if first else ""
    return [
        f"{title}: {gained} of {count(len(both), 'task')} better than before training; mean "
        f"{written(run.primary, first)} before, {written(run.primary, last)} after{change}."
        + (f" Worse: {_listed(worse)}." if worse else "")
    ]


def _verdicts_in_words(story: RunStory) -> list[str]:
    if all(task.verdict in ("no records", "one pass") for task in story.tasks):  # or there are none
        return []
    lines = []
    if worse := story.having("worse than at the start"):
        lines.append(f"Worse on validation than at the start: {_listed([_with(t, t.change) for t in worse])}.")
    if burnt := story.having("burnt out"):
        since = [f"{task.task} ({percent(task.rise)} since step {task.lowest_step:.0f})" for task in burnt]
        lines.append(f"Burnt out, the validation loss rising from its minimum: {_listed(since)}.")
    elif not worse:
        lines.append(f"No task is burnt out: none ended more than {100 * BURNT_OUT:.0f} % above its minimum.")
    if behind := story.having("left behind"):
        lines.append(f"Left behind: {_listed([_with(task, task.change) for task in behind])}.")
    falling = len(story.having("still falling")) + len(behind)
    if falling:
        lines.append(f"{count(falling, 'task')} still improved at the end: a longer run may help.")
    return lines


def in_words(task: TaskDiagnosis, story: RunStory) -> str:
    """Return what happened to a task and what the balancer answered."""
    return " ".join(part for part in (_course(task), _answer(task, story)) if part)


def _course(task: TaskDiagnosis) -> str:
    if not isfinite(task.last):
        return "No validation loss was written down."
    if task.verdict == "one pass":
        return f"One validation pass: {task.last:.3f} ({percent(task.change)} from the start)."
    text = f"From {task.start:.3f} to {task.last:.3f} ({percent(task.change)})"
    if task.lowest == task.last:
        return f"{text}, lowest at the end."
    return f"{text}; lowest, {task.lowest:.3f}, at step {task.lowest_step:.0f}, since then {percent(task.rise)}."


def _answer(task: TaskDiagnosis, story: RunStory) -> str:
    weights = [weight for weight in task.weights if isfinite(weight)]
    if not weights or story.balance is None:
        return ""
    equal = 1 / len(story.balance.tasks)
    if max(abs(weight - equal) for weight in weights) < 1e-9:
        return f"Weight {equal:.3f} throughout, an equal share."
    slope = ""
    if isfinite(task.slope):
        course = "flat" if abs(task.slope) < FLAT else "falling" if task.slope < 0 else "rising"
        slope = f"Slope over the last window {task.slope:+.4f} a record ({course}){_scores(task, story)}. "
    low, high = min(weights), max(weights)
    return (
        f"{slope}Weight {weights[0]:.3f} at first, {weights[-1]:.3f} at the end ({weights[-1] / equal:.2f} of an equal "
        f"share), between {low:.3f} and {high:.3f}."
    )


def _scores(task: TaskDiagnosis, story: RunStory) -> str:
    balance = story.balance
    assert balance is not None
    k = balance.tasks.index(task.task)
    rcs, acs, factor = balance.rcs[-1, k], balance.acs[-1, k], balance.divergence_factor[-1]
    if not all(map(isfinite, (rcs, acs, factor))):
        return ""
    return f"; RCS {rcs:.2f} and ACS {acs:.2f} are mixed {100 * factor:.0f} : {100 - 100 * factor:.0f}"


def _with(task: TaskDiagnosis, change: float) -> str:
    return f"{task.task} ({percent(change)})"


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])
