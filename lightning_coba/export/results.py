"""What a run was measured to reach, for its model card."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from lightning_coba.export.markdown import markdown_table
from lightning_coba.log_keys import TEST_LOSS
from lightning_coba.runs.trained_run import TrainedRun

_METRICS = (
    " Accuracy: share of tokens predicted rightly from the true ones before them; exact match: share of rows in which "
    "all are."
)


@dataclass(frozen=True)
class Result:
    """Hold one measured number.

    Attributes:
        task: on whose rows.
        metric: such as ``"loss"`` or ``"exact_match"``.
        value: as it was measured; shares are between 0 and 1.
        split: of the data.
        interval: of 95 %, in words; empty where there is none.
        rows: on which it rests; empty where unknown.
    """

    task: str
    metric: str
    value: float
    split: str = "test"
    interval: str = ""
    rows: str = ""


def results_of_test(run: TrainedRun) -> list[Result]:
    """Return what the run's own test pass measured after training."""
    measured = {_metric(key): result.values for key, result in run.results.items()}
    return [
        Result(task, name, values[task])
        for name, values in measured.items()
        for task in run.tasks
        if isfinite(values.get(task, nan))
    ]


def _metric(key: str) -> str:
    return key.removeprefix("test_")


def scores_of_text(run: TrainedRun) -> list[Result]:
    """Return the scores of text that the model wrote, as ``coba-evaluate`` left them; none if it was not asked to."""
    found = _evaluation(run)
    split = str(found.get("split", "test"))
    results = []
    for task, of_task in (found.get("tasks") or {}).items():
        for name, score in (of_task.get("metrics") or {}).items():
            value, low, high = (score.get(key) for key in ("value", "low", "high"))
            if value is not None:
                interval = "" if low is None or high is None else f"{low:.3g} to {high:.3g}"
                results.append(Result(task, name, float(value), split, interval, str(score.get("rows", ""))))
    return results


def is_of(run: TrainedRun, checkpoint: str) -> bool:
    """Return whether those scores are of a checkpoint's weights; a run ends with its best ones."""
    scored = (_evaluation(run).get("settings") or {}).get("checkpoint") or "final"
    return scored == checkpoint or {scored, checkpoint} == {"best", "final"}


def _evaluation(run: TrainedRun) -> Mapping[str, Any]:
    try:
        found = json.loads(run.files.evaluation().card.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def results_section(run: TrainedRun, checkpoint: str) -> str:
    """Say what the model reaches, and of which weights the numbers are."""
    results, before = run.results, run.results_before
    if not results:
        parts = ["The run had not been tested when it was exported."]
    else:
        shown: dict[str, Mapping[str, float]] = {}
        if TEST_LOSS in before:
            shown["loss before"] = before[TEST_LOSS].values
        for key, result in results.items():
            shown["loss after" if key == TEST_LOSS else _metric(key).replace("_", " ")] = result.values
        rows = [(task, *(values.get(task, nan) for values in shown.values())) for task in run.tasks]
        limit = run.settings["data"].get("test_rows")
        subset = f" (a fixed subset of at most {limit} rows)" if limit else ""
        parts = [
            f"On each task's test split{subset}, with the weights of the best validation pass. "
            f"Loss: nats per completion token.{_METRICS if len(results) > 1 else ''}",
            markdown_table(("task", *shown), rows),
        ]
        if checkpoint == "last":
            parts.append("**This folder holds the weights of the end of training instead**, which were not tested.")
    if scores := scores_of_text(run):
        weights = (_evaluation(run).get("settings") or {}).get("checkpoint") or "final"
        rows_of_text = [(one.task, one.metric.replace("_", " "), one.value, one.interval, one.rows) for one in scores]
        parts += [
            f"Scores of the answers that the model wrote to rows of the {scores[0].split} split (weights: {weights}):",
            markdown_table(("task", "metric", "value", "95 % interval", "rows"), rows_of_text),
        ]
    return "\n\n".join(parts)
