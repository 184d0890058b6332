"""The tables of a model card."""

import re
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from lightning_coba.export.markdown import markdown_table
from lightning_coba.export.results import Result
from lightning_coba.export.run_data import RunData
from lightning_coba.log_keys import TEST_LOSS
from lightning_coba.runs.own_balancer import own_balancer
from lightning_coba.runs.settings import flat
from lightning_coba.runs.trained_run import TrainedRun
from lightning_coba.simplex.records import BalanceTable

#: Groups of settings that say how the run was trained; the others say where it was and what watched it.
GROUPS = ("peft", "optimizer", "scheduler", "trainer", "data")
_LEFT_OUT = re.compile(r".*(_target_|default_root_dir|_partial_|num_proc)|data\.(root|tasks.*|seed)|trainer\.enable_.*")


def data_table(run: TrainedRun, data: RunData) -> str:
    """Return the rows of each task by split; empty where they are not known."""
    columns = ("task", *(f"{split} rows" for split in data.sizes))
    rows = [(task, *(f"{sizes.get(task, 0):,}" for sizes in data.sizes.values())) for task in run.tasks]
    return markdown_table(columns, rows) if data.sizes else ""


def results_table(run: TrainedRun) -> str:
    """Return the results of the run's own test pass by task, beside the loss before training."""
    shown: dict[str, Mapping[str, float]] = {}
    if TEST_LOSS in run.results_before:
        shown["loss before"] = run.results_before[TEST_LOSS].values
    for key, result in run.results.items():
        shown["loss after" if key == TEST_LOSS else key.removeprefix("test_").replace("_", " ")] = result.values
    rows = [(task, *(values.get(task, nan) for values in shown.values())) for task in run.tasks]
    return markdown_table(("task", *shown), rows)


def scores_table(scores: Sequence[Result]) -> str:
    """Return the scores of text that the model wrote."""
    rows = [(one.task, one.name, one.value, one.interval, one.rows) for one in scores]
    return markdown_table(("task", "metric", "value", "95 % interval", "rows"), rows)


def balancer_table(settings: Mapping[str, Any], balance: BalanceTable | None) -> str:
    """Return a balancer's settings; what was left to CoBa as its records show it."""
    listed = {key: value for key, value in flat(settings).items() if "_target_" not in key}
    left = [name for name in ("window_records", "warmup_records") if name in listed and listed[name] is None]
    coba = own_balancer(settings, balance) if left and balance is not None else None
    listed |= {name: getattr(coba, name, "chosen at the start") for name in left}
    return markdown_table(("setting", "value"), listed.items())


def weights_table(balance: BalanceTable) -> str:
    """Return the weights at five points of the run, from the first record to the last."""
    last = len(balance.records) - 1
    chosen = sorted({round(last * quarter / 4) for quarter in range(5)})
    rows = [[int(balance.records[t]), int(balance.steps[t]), *map(float, balance.weight[t])] for t in chosen]
    return markdown_table(("record", "step", *balance.tasks), rows)


def settings_table(run: TrainedRun) -> str:
    """Return how the run was trained; where its files lay is nobody's concern."""
    shown = {group: run.settings.get(group) or {} for group in GROUPS}
    rows = [(key, value) for key, value in flat(shown).items() if not _LEFT_OUT.fullmatch(key) and value != {}]
    named = [(group, shown[group]["_target_"]) for group in GROUPS if "_target_" in shown[group]]
    return markdown_table(("setting", "value"), [("seed", run.settings.get("seed")), *named, *rows])
