"""Say in sentences what a comparison shows, and in plain words what its columns mean."""

from collections.abc import Mapping

import numpy as np

from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.statistics import FEWEST_TASKS, Array, mean_and_deviation, mean_over

#: The method that a reader of this package asks about first.
SUBJECT = "CoBa"
METRIC_NAMES = {"accuracy": "token accuracy", "exact_match": "exact match"}

DASH = "—"

READING: Mapping[str, str] = {
    "mean test loss": "Loss per completion token on the test split, each task counting the same, at the checkpoint "
    "with the lowest mean validation loss. Lower is better. Mean over seeds ± standard deviation over seeds.",
    "change vs uniform": "The test loss of each task relative to uniform weights, averaged over tasks, so that a task "
    "with a large loss counts no more than the others. Negative is better.",
    "95 % interval": "Where that average would lie if the tasks were drawn again from tasks like these (10,000 "
    "bootstrap resamples of the tasks; seeds are averaged first and are not in it). With fewer than ten tasks such an "
    "interval tends to be too narrow.",
    "tasks lower": "On how many tasks the test loss, averaged over seeds, is below that of uniform weights.",
    "time vs uniform": "Time of an optimizer step relative to uniform weights.",
    "mean rank": "Rank among the methods by test loss, taken within each seed and task, then averaged. 1 = always the "
    "lowest.",
    "vs single-task": "As the change against uniform, but against runs that trained on that task alone. Above 0: "
    "training together costs something.",
    "worst task": "The task with the largest test loss relative to {base}, and that ratio.",
    "token accuracy": "Share of completion tokens predicted right given the true text before them, on the test split. "
    "Mean over tasks. Higher is better.",
    "exact match": "Share of test rows whose whole completion is generated right, greedily. Mean over tasks. Higher is "
    "better.",
    "best-step spread": "How far apart the tasks converge: the latest minus the earliest step at which a task's "
    "validation loss was lowest, as a share of the run's steps. 0 % = all together.",
    "time per step": "Time of an optimizer step, validation not counted.",
}


def headline(comparison: Comparison) -> list[str]:
    """Return the answer to "is it better, and what does it cost?", computed from the numbers."""
    changes = comparison.changes
    if changes is None:
        return _without_uniform(comparison)
    change = mean_over(changes, axis=1)
    others = [m for m in range(len(comparison.methods)) if m != comparison.reference]
    if not others:
        return ["Only uniform weights were run: nothing to compare them with yet."]
    subjects = [m for m in others if comparison.runs[m][0].method == SUBJECT]
    lines = [_against_uniform(comparison, m) for m in subjects]
    best = min(others, key=lambda m: change[m])
    if not subjects:
        lines.append(_against_uniform(comparison, best))
    if len(others) > 1:
        lines.append(_best_in_words(comparison, change, best))
    if len(comparison.seeds) == 1:
        lines.append("One seed: how much of this is chance cannot be told. Two more seeds would say.")
    return lines


def reading(column: str, comparison: Comparison) -> str:
    """Return what a column means; empty for one that needs no words."""
    return READING.get(column, "").format(base=_base_in_words(comparison))


def percent(change: float) -> str:
    """Write a change with its sign.

    Example:
        >>> percent(-0.0213), percent(0.0), percent(float("nan"))
        ('-2.1 %', '0.0 %', '—')
    """
    if np.isnan(change):
        return DASH
    text = f"{100 * change:+.1f} %"
    return "0.0 %" if text in ("+0.0 %", "-0.0 %") else text


def count(number: int, noun: str) -> str:
    """Write a number of things.

    Example:
        >>> count(1, "seed"), count(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _against_uniform(comparison: Comparison, method: int) -> str:
    assert comparison.changes is not None
    assert comparison.reference is not None
    changes = comparison.changes[method]
    mean, uniform = float(np.mean(changes)), comparison.methods[comparison.reference]
    size = f"{100 * abs(mean):.1f} %"
    difference = "within 0.05 % of" if size == "0.0 %" else f"{size} {'lower' if mean < 0 else 'higher'} than"
    tasks = count(len(changes), "task")
    interval = comparison.interval(method)
    parts = [
        f"{comparison.methods[method]}: test loss {difference} {uniform} on average over {tasks} and "
        f"{count(len(comparison.seeds), 'seed')}"
        + (f" (95 % interval over tasks {percent(interval[0])[:-2]} .. {percent(interval[1])})" if interval else ""),
        f"lower on {int((changes < 0).sum())} of {tasks}",
    ]
    if np.isfinite(time := comparison.relative_time[method]):
        parts.append(f"{time:.2f}x the time per step")
    if interval is None:
        verdict = f"With fewer than {FEWEST_TASKS} tasks there is no interval."
    elif interval[0] <= 0 <= interval[1]:
        verdict = "The interval includes 0: other tasks could turn the difference round."
    else:
        verdict = "The interval leaves 0 out."
    return f"{'; '.join(parts)}. {verdict}"


def _best_in_words(comparison: Comparison, change: Array, best: int) -> str:
    if change[best] >= 0:
        return f"None of the {len(change) - 1} other methods has a lower test loss than uniform weights on average."
    return (
        f"Largest improvement of the {len(change)} methods: {comparison.methods[best]} ({percent(change[best])} on "
        "average). It was picked after looking, so expect a little less of it next time."
    )


def _without_uniform(comparison: Comparison) -> list[str]:
    seeds = ",".join(str(seed) for seed in comparison.seeds if seed is not None)
    mean, deviation = mean_and_deviation(comparison.mean_test_loss[0])
    plus_minus = f" ± {deviation:.3f} over {len(comparison.seeds)} seeds" if np.isfinite(deviation) else ""
    lines = [
        f"There is no run with uniform weights, so whether balancing helped cannot be said. This adds it, with your "
        f"other settings: coba-train -m ... balancer=uniform{f' seed={seeds}' if seeds else ''}"
    ]
    if len(comparison.methods) > 1:
        lines.append(
            f"Lowest mean test loss of the {len(comparison.methods)} methods: {comparison.methods[0]} "
            f"({mean:.3f}{plus_minus}) on {count(len(comparison.tasks), 'task')}."
        )
    return lines


def _base_in_words(comparison: Comparison) -> str:
    return {"single-task": "a run on that task alone"}.get(comparison.worst_base, comparison.worst_base)
