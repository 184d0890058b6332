"""What a run was measured to reach, for its model card."""

import json
from dataclasses import dataclass
from math import isfinite, nan

from lightning_coba.runs.card import mapping, number
from lightning_coba.runs.trained_run import TrainedRun

#: Scores of answers that the run's own test pass has other measures of, of single tokens.
_OF_ANSWERS = {"accuracy": "label accuracy", "exact_match": "exact match of the answer"}


@dataclass(frozen=True)
class Result:
    """Hold one measured number.

    Attributes:
        task: on whose rows.
        metric: such as ``"loss"`` or ``"exact_match"``.
        value: as it was measured; shares are between 0 and 1.
        split: of the data.
        weights: the checkpoint that it was measured of; a run ends with its best ones.
        interval: of 95 %, in words; empty where there is none.
        rows: on which it rests; empty where unknown.
        name: of the metric, for people; no two measures of a run share one.
    """

    task: str
    metric: str
    value: float
    split: str = "test"
    weights: str = "final"
    interval: str = ""
    rows: str = ""
    name: str = ""


def results_of_test(run: TrainedRun) -> list[Result]:
    """Return what the run's own test pass measured after training."""
    return [
        Result(task, metric := key.removeprefix("test_"), result.values[task], name=metric.replace("_", " "))
        for key, result in run.results.items()
        for task in run.tasks
        if isfinite(result.values.get(task, nan))
    ]


def scores_of_text(run: TrainedRun) -> list[Result]:
    """Return the scores of text that the model wrote, as ``coba-evaluate`` left them; none if it was not asked to."""
    try:
        found = mapping(json.loads(run.files.evaluation().card.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []
    split, weights = str(found.get("split", "test")), mapping(found.get("settings")).get("checkpoint") or "final"
    results = []
    for task, of_task in mapping(found.get("tasks")).items():
        for name, score in mapping(mapping(of_task).get("metrics")).items():
            score = mapping(score)
            value, low, high = (number(score.get(key)) for key in ("value", "low", "high"))
            if isfinite(value):
                interval = "" if not (isfinite(low) and isfinite(high)) else f"{low:.3g} to {high:.3g}"
                rows = str(score.get("rows", ""))
                named = _OF_ANSWERS.get(name, name.replace("_", " "))
                results.append(Result(task, name, float(value), split, weights, interval, rows, named))
    return results
