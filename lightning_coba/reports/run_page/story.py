"""What became of each task in a run, and what its balancer answered: read from the records, said in words."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_coba.errors import MissingFileError
from lightning_coba.log_keys import TRAIN_LOSS
from lightning_coba.reports.findings import TaskFinding, task_findings
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.run_page.weight_account import account_of, why_equal
from lightning_coba.reports.statistics import Array
from lightning_coba.runs.card import MULTITASK, first_step, mapping, number
from lightning_coba.runs.collection import Run, read_run
from lightning_coba.runs.curves import Curves, read_curves
from lightning_coba.runs.files import RunFiles
from lightning_coba.simplex.records import BalanceTable, read_balance

#: A task is left behind when it still improves and has gained less than this share of what the median task has.
LEFT_BEHIND = 0.5


@dataclass(frozen=True, eq=False)
class RunStory:
    """Hold everything that a page about one run is made of.

    Attributes:
        run: What the folder says.
        balance: The balancer's records; None where there are none.
        losses: What these hold.
        training: Task -> step -> training loss.
        steps: Optimizer steps of each phase; of a run without phases under its own name. NaN where unknown.
        tasks: How each task fared; empty where no loss was followed.
        verdicts: Task -> what it came to, in the words of ``task_columns.yaml``.
        notes: What a reader has to know first.
        account: What the weights did, and why; empty where nothing has weights.
    """

    run: Run
    balance: BalanceTable | None
    losses: Literal["validation", "training"]
    training: Mapping[str, Mapping[int, float]]
    steps: Mapping[str, float]
    tasks: Sequence[TaskFinding]
    verdicts: Mapping[str, str]
    notes: Sequence[str]
    account: Sequence[str]

    def having(self, verdict: str) -> list[TaskFinding]:
        """Return the tasks with a verdict."""
        return [task for task in self.tasks if self.verdicts[task.task] == verdict]

    def recorded(self, column: str, task: str) -> Array:
        """Return ``[T]`` numbers of a task in the balancer's records, such as its "weight"; empty without records."""
        if self.balance is None or task not in self.balance.tasks:
            return np.empty(0)
        return np.asarray(getattr(self.balance, column)[:, self.balance.tasks.index(task)])


def read_story(folder: str | os.PathLike[str]) -> RunStory:
    """Read a run folder, complete or not.

    Raises:
        FileNotFoundError: it is not the folder of a run.
        DamagedFileError: its card cannot be read.
    """
    card = RunFiles(Path(folder)).card
    if not card.is_file():
        raise MissingFileError(
            f"`write_run_page.folder` must be the folder of a run; {folder} has no {card.name}.", "Give runs/<name>."
        )
    run = read_run(folder)
    run.require_card()
    balance, complaint = _balance(run.last_fit_with(lambda fit: fit.balance).balance)
    losses: Literal["validation", "training"] = "training" if run.card.get("records") == "training" else "validation"
    unfinished = "" if run.is_complete else f"The run is {run.status}: {run.error.removesuffix('.')}."
    notes = [note for note in (unfinished, complaint, *_oddities(run, balance, losses)) if note]
    tasks = [] if run.objective.better == "max" else _follow(run, balance if losses == "validation" else None)
    account = account_of(balance, run.settings, run.steps) if balance is not None else []
    return RunStory(run, balance, losses, _training(run), _steps(run), tasks, _verdicts(tasks), notes, account)


def _training(run: Run) -> Curves:
    """Return the training losses by task; those of all together where the validation curve is of all together."""
    file = run.last_fit_with(lambda fit: fit.metrics).metrics
    curves, _ = read_curves(file, TRAIN_LOSS, first_step(run.card))
    return curves if run.system == MULTITASK or not run.curves else {k: v for k, v in curves.items() if k in run.curves}


def _steps(run: Run) -> dict[str, float]:
    """Return how long each phase was: as its card says or, before its end, by what it logged."""
    steps = {}
    for name, fit in zip(run.phases, run.fits, strict=False):
        timing = mapping(mapping(run.card["phases"][name]).get("timing"))
        logged = read_curves(fit.metrics, first_step=first_step(run.card))[1]
        known = [count for count in (number(timing.get("steps")), float(logged)) if count > 0]
        steps[name] = max(known, default=math.nan)
    return steps or {run.folder.name: run.steps}


def _follow(run: Run, balance: BalanceTable | None) -> list[TaskFinding]:
    """Return how each task fared in the validation passes, and in the balancer's records where there are no passes."""
    # A system without tasks may have one loss, and results of several parts.
    names = run.tasks if run.system == MULTITASK or {*run.tasks} & {*run.curves} else [*run.curves]
    found = []
    for name in names:
        curve = dict(sorted(run.curves.get(name, {}).items()))
        start = math.nan
        if balance is not None and name in balance.tasks:
            k = balance.tasks.index(name)
            there = np.flatnonzero(np.isfinite(balance.ratio[:, k]) & (balance.ratio[:, k] > 0))
            curve = curve or dict(zip(balance.steps[there].tolist(), balance.loss[there, k].tolist(), strict=True))
            start = float(balance.loss[there[0], k] / balance.ratio[there[0], k]) if there.size else start
        steps, losses = np.array([*curve], dtype=np.int64), np.array([*curve.values()], dtype=np.float64)[:, None]
        table = LossTable([name], steps, losses, initial=np.array([start])) if curve else None
        found += [TaskFinding(name)] if table is None else task_findings(table)
    return found


def _verdicts(tasks: Sequence[TaskFinding]) -> dict[str, str]:
    """Return what each task came to."""
    ratios = [task.last_ratio for task in tasks if math.isfinite(task.last_ratio)]
    gained = 1 - float(np.median(ratios)) if len(ratios) > 1 else 0.0
    found = {}
    for task in tasks:
        slow = 1 - task.last_ratio < LEFT_BEHIND * gained
        reached = {"unknown": "too few passes", "improving": "left behind" if slow else "still falling"}
        if not task.best_record:
            verdict = "no records"
        elif task.last_ratio > 1:
            verdict = "worse than at the start"
        else:
            verdict = "overfit" if task.has_turned else reached.get(task.state, "converged")
        found[task.task] = verdict
    return found


def _balance(file: Path) -> tuple[BalanceTable | None, str]:
    if not file.is_file():
        return None, ""
    try:
        return read_balance(file), ""
    except ValueError as error:  # half-written, or none yet
        return None, str(error)


def _oddities(run: Run, balance: BalanceTable | None, losses: str) -> list[str]:
    notes = []
    if run.status == "finished" and run.system == MULTITASK and not run.before.values:
        notes.append("The loss before training was not measured on the test split (test_before=false).")
    if balance is not None:
        absent = int((~np.isfinite(balance.loss)).sum())
        if 0 < absent < balance.loss.size and losses == "validation":  # a training step may well be without some tasks
            notes.append(
                f"{absent} of {balance.loss.size} losses in the records are missing: the task was absent, or its loss "
                "was NaN or infinite and was left out."
            )
        if run.method == "CoBa" and not np.isfinite(balance.rcs).any():
            notes.append(why_equal(balance, run.settings))
    return notes
