"""Say in sentences what a comparison shows, and in plain words what its columns mean."""

from importlib.resources import files

import numpy as np
import yaml

from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.comparison.grouping import has_balancer
from lightning_coba.reports.formats import DASH, count, percent
from lightning_coba.reports.result_names import comparative, result_name, result_title, superlative, written_over_seeds
from lightning_coba.reports.statistics import FEWEST_TASKS, Array, mean_over
from lightning_coba.runs.card import MULTITASK

#: The method that a reader of this package asks about first.
SUBJECT = "CoBa"


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
    best = (min if comparison.better == "min" else max)(others, key=lambda m: change[m])
    if not subjects:
        lines.append(_against_uniform(comparison, best))
    if len(others) > 1:
        lines.append(_best_in_words(comparison, change, best))
    if len(comparison.seeds) == 1:
        lines.append("One seed: how much of this is chance cannot be told. Two more seeds would say.")
    return lines


def reading(column: str, comparison: Comparison) -> str:
    """Return what a column means; empty for one that needs no words."""
    words = {
        "name": comparison.name,
        "better": comparative(comparison.better),
        "objective": result_name(comparison.objective.key),
        "best_objective": superlative(comparison.objective.better),
        "base": "a run on that task alone" if comparison.worst_base == "single-task" else comparison.worst_base,
    }
    columns = yaml.safe_load(files(__package__).joinpath("summary_columns.yaml").read_text(encoding="utf-8"))
    return next((said.format(**words) for name, said in columns.items() if name.format(**words) == column), "")


def interval_in_words(comparison: Comparison, method: int) -> str:
    """Return the interval of a method's mean change against uniform weights; a dash where there is none."""
    interval = comparison.interval(method)
    return f"{percent(interval[0])[:-2]} .. {percent(interval[1])}" if interval else DASH


def _against_uniform(comparison: Comparison, method: int) -> str:
    assert comparison.changes is not None
    assert comparison.reference is not None
    changes = comparison.changes[method]
    mean, uniform = float(np.mean(changes)), comparison.methods[comparison.reference]
    size = f"{100 * abs(mean):.1f} %"
    difference = "within 0.05 % of" if size == "0.0 %" else f"{size} {'lower' if mean < 0 else 'higher'} than"
    tasks = count(len(changes), "task")
    interval = comparison.interval(method)
    within = f" (95 % interval over tasks {interval_in_words(comparison, method)})" if interval else ""
    parts = [
        f"{comparison.methods[method]}: {comparison.name} {difference} {uniform} on average over {tasks} and "
        f"{count(len(comparison.seeds), 'seed')}{within}",
        f"{comparative(comparison.better)} on {int(comparison.is_better(changes).sum())} of {tasks}",
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
    if not comparison.is_better(change)[best]:
        return (
            f"None of the {len(change) - 1} other methods has a {comparative(comparison.better)} {comparison.name} "
            "than uniform weights on average."
        )
    return (
        f"Largest improvement of the {len(change)} methods: {comparison.methods[best]} ({percent(change[best])} on "
        "average). It was picked after looking, so expect a little less of it next time."
    )


def _without_uniform(comparison: Comparison) -> list[str]:
    seeds = ",".join(str(seed) for seed in comparison.seeds if seed is not None)
    lines = []
    if any(run.system == MULTITASK or has_balancer(run) for row in comparison.runs for run in row):
        lines.append(
            f"There is no run with uniform weights, so whether balancing helped cannot be said. This adds it, with "
            f"your other settings: coba-train -m ... balancer=uniform{f' seed={seeds}' if seeds else ''}"
        )
    several = len(comparison.methods) > 1
    if several or not lines:
        over = f" over {len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else ""
        shown = written_over_seeds(comparison.key, comparison.mean[0]) + over
        alone = f"Mean {comparison.name}" if comparison.has_parts else result_title(comparison.key)
        begin = f"{superlative(comparison.better).capitalize()} {comparison.mean_name}" if several else alone
        of = f" of the {len(comparison.methods)} methods" if several else ""
        parts = f" on {count(len(comparison.tasks), 'task')}" if comparison.has_parts else ""
        lines.append(f"{begin}{of}: {comparison.methods[0]} ({shown}){parts}.")
    return lines
