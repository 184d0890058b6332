"""Say in sentences what a comparison shows, and in plain words what its columns mean."""

from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import yaml

from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.comparison.effects import (
    DIGITS,
    INTERVAL,
    Shown,
    difference_in_words,
    effect,
    interval_in_words,
    is_invisible,
    others,
    shown,
)
from lightning_coba.reports.comparison.grouping import has_balancer
from lightning_coba.reports.formats import DASH, count, listed
from lightning_coba.reports.result_names import comparative, result_name, result_title, superlative, written_over_seeds
from lightning_coba.reports.statistics import FEWEST_SEEDS
from lightning_coba.runs.card import MULTITASK

#: The method that a reader of this package asks about first.
SUBJECT = "CoBa"


def headline(comparison: Comparison) -> list[str]:
    """Return the answer to "is it better, and what does it cost?", computed from the numbers."""
    if comparison.reference is None:
        return _without_uniform(comparison)
    compared = others(comparison)
    if not compared:
        return ["Only uniform weights were run: nothing to compare them with yet."]
    subjects = [m for m in compared if comparison.runs[m][0].method == SUBJECT] or compared[:1]
    lines = [sentence for m in subjects for sentence in (_against_uniform(comparison, m), *_scores(comparison, m))]
    if len(compared) > 1:
        lines.append(_all_in_words(comparison, compared))
    if len(comparison.seeds) < FEWEST_SEEDS:
        lines.append(
            f"With fewer than {FEWEST_SEEDS} seeds no difference can be told from chance. Run more of each method, "
            "for instance: coba-train -m ... seed=1,2,3,4,5"
        )
    return lines


def reading(column: str, comparison: Comparison) -> str:
    """Return what a column means; empty for one that needs no words."""
    words = {
        "name": comparison.name,
        "better": comparative(comparison.better),
        "interval": INTERVAL,
        "objective": result_name(comparison.objective.key),
        "best_objective": superlative(comparison.objective.better),
        "base": "a run on that task alone" if comparison.worst_base == "single-task" else comparison.worst_base,
    }
    columns = yaml.safe_load(files(__package__).joinpath("summary_columns.yaml").read_text(encoding="utf-8"))
    return next((said.format(**words) for name, said in columns.items() if name.format(**words) == column), "")


def _against_uniform(comparison: Comparison, method: int) -> str:
    key, uniform = comparison.key, comparison.methods[comparison.reference or 0]
    result, name = shown(comparison, key, method), comparison.methods[method]
    if result == "the same":
        return f"{name} changed nothing: its {comparison.name} is that of {uniform} to the last digit, in every run."
    found = effect(comparison, key, method)
    if not np.isfinite(found.mean):
        return (
            f"{name}: no difference shown. A change relative to {uniform} cannot be given where its "
            f"{comparison.name} is 0."
        )
    size = difference_in_words(comparison, key, 10**-DIGITS if is_invisible(found) else abs(found.mean)).lstrip("+")
    difference = f"less than {size} from" if is_invisible(found) else f"{size} {_direction(found.mean)} than"
    parts = f"{count(len(comparison.tasks), 'task')} and " if comparison.has_parts else ""
    on = f"{parts}{count(len(comparison.seeds), 'seed')}"
    interval = interval_in_words(comparison, key, method)
    within = "" if interval == DASH else f", {_confidence(comparison)} {interval}"
    told = f"{comparison.name} {difference} that of {uniform} (mean over {on}{within})"
    if result == "no difference shown":
        why = "" if interval == DASH else ", which is no more than seeds and tasks differ by"
        why = ", which is too small to see in the digits shown here" if found.excludes_zero else why
        return f"{name}: no difference shown. {told[0].upper()}{told[1:]}{why}."
    return f"{name} is {result} than {uniform}: {told}."


def _scores(comparison: Comparison, method: int) -> list[str]:
    """Return what the other results show of a method, one sentence for all of them."""
    found = {key: shown(comparison, key, method) for key in comparison.results if key != comparison.key}
    said = []
    for key, result in found.items():
        if not np.isfinite(mean := effect(comparison, key, method).mean):
            continue
        interval = interval_in_words(comparison, key, method)
        size = difference_in_words(comparison, key, mean) + (f", {interval}" if interval != DASH else "")
        said.append(f"{result_name(key)}: {result}" + (f" ({size})" if result != "the same" else ""))
    if not said:
        return []
    told = f"{comparison.methods[method]}, {'; '.join(said)}."
    if shown(comparison, comparison.key, method) == "better" and "better" not in found.values():
        told += f" So the better {comparison.name} is not seen in them."
    return [told]


def _all_in_words(comparison: Comparison, compared: Sequence[int]) -> str:
    by_result: dict[Shown, list[str]] = {"better": [], "worse": [], "no difference shown": [], "the same": []}
    for m in compared:
        by_result[shown(comparison, comparison.key, m)].append(comparison.methods[m])
    said = [f"{result}: {listed(methods)}" for result, methods in by_result.items() if methods]
    return f"Of {len(compared)} methods against uniform weights, by {comparison.name}: {'; '.join(said)}."


def _confidence(comparison: Comparison) -> str:
    number = len(others(comparison))
    return INTERVAL if number == 1 else f"{INTERVAL} for {number} methods at once"


def _direction(difference: float) -> str:
    return "lower" if difference < 0 else "higher"


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
