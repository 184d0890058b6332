"""What became of each task in a run, and what its balancer answered: read from the records, said in words."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_coba.log_keys import TRAIN_LOSS
from lightning_coba.runs.card import MULTITASK
from lightning_coba.runs.collection import Run, read_run
from lightning_coba.runs.curves import Curves, read_curves
from lightning_coba.runs.files import RunFiles
from lightning_coba.simplex.records import BalanceTable, read_balance

#: A task is burnt out when its validation loss ends so much above its minimum. A replay looks closer, and says of less
#: that a task overfitted: ``replay.findings.TOLERANCE``.
BURNT_OUT = 0.05
#: A task still falls when its last validation loss is the lowest, and so much below those before the last quarter of
#: the passes.
STILL_FALLING = 0.01
#: A task is left behind when it still falls and has gained less than this share of what the median task has.
LEFT_BEHIND = 0.5
#: What a task can have come to, the worst first, and what that means.
VERDICTS: Mapping[str, str] = {
    "worse than at the start": "The validation loss ended above where it began.",
    "burnt out": f"The validation loss ended more than {100 * BURNT_OUT:.0f} % above its minimum.",
    "left behind": "The validation loss was still falling at the end, and had fallen, relative to its start, by less "
    "than half as much as that of the median task.",
    "still falling": "The validation loss was lowest in the last validation pass, and gained more than "
    f"{100 * STILL_FALLING:.0f} % in the last quarter of the passes.",
    "converged": f"The validation loss ended at most {100 * BURNT_OUT:.0f} % above its minimum, and no longer falls.",
    "one pass": "A single validation pass shows no course.",
    "no records": "No validation loss was written down.",
}


@dataclass(frozen=True)
class TaskDiagnosis:
    """Say what became of one task; NaN = not known.

    Attributes:
        task: its name.
        verdict: one of `VERDICTS`.
        start: validation loss before training, or in the first pass where that is not known.
        lowest: of all passes.
        lowest_step: at which it was lowest.
        last: of the last pass.
        slope: change of the loss ratio per record that the balancer saw at the end.
        weights: in force after each record, ``[T]``; empty without records.
    """

    task: str
    verdict: str = "no records"
    start: float = math.nan
    lowest: float = math.nan
    lowest_step: float = math.nan
    last: float = math.nan
    slope: float = math.nan
    weights: Sequence[float] = ()

    @property
    def change(self) -> float:
        """Loss at the end relative to the start, less 1."""
        return self.last / self.start - 1 if self.start else math.nan

    @property
    def rise(self) -> float:
        """Loss at the end relative to the minimum, less 1."""
        if self.lowest == 0:
            return math.inf if self.last > 0 else 0.0
        return self.last / self.lowest - 1


@dataclass(frozen=True, eq=False)
class RunStory:
    """Hold everything that a page about one run is made of.

    Attributes:
        run: What the folder says.
        balance: The balancer's records; None where there are none.
        losses: What these hold.
        training: Task -> step -> training loss.
        tasks: What became of each task; empty where no loss was followed.
        notes: What a reader has to know first.
    """

    run: Run
    balance: BalanceTable | None
    losses: Literal["validation", "training"]
    training: Mapping[str, Mapping[int, float]]
    tasks: Sequence[TaskDiagnosis]
    notes: Sequence[str]

    def having(self, verdict: str) -> list[TaskDiagnosis]:
        """Return the tasks with a verdict."""
        return [task for task in self.tasks if task.verdict == verdict]


def read_story(folder: str | os.PathLike[str]) -> RunStory:
    """Read a run folder, complete or not.

    Raises:
        FileNotFoundError: it is not the folder of a run.
    """
    card = RunFiles(Path(folder)).card
    if not card.is_file():
        raise FileNotFoundError(
            f"`write_run_page.folder` must be the folder of a run; {folder} has no {card.name}. Give runs/<name>."
        )
    run = read_run(folder)
    balance, complaint = _balance(run.last_fit_with(lambda fit: fit.balance).balance)
    losses: Literal["validation", "training"] = "training" if run.card.get("records") == "training" else "validation"
    notes = [note for note in (_unfinished(run), complaint, *_oddities(run, balance, losses)) if note]
    return RunStory(run, balance, losses, _training(run), diagnose(run, balance, losses), notes)


def _training(run: Run) -> Curves:
    """Return the training losses by task; those of all together where the validation curve is of all together."""
    curves, _ = read_curves(run.last_fit_with(lambda fit: fit.metrics).metrics, TRAIN_LOSS)
    return curves if run.system == MULTITASK or not run.curves else {k: v for k, v in curves.items() if k in run.curves}


def diagnose(run: Run, balance: BalanceTable | None, losses: str = "validation") -> list[TaskDiagnosis]:
    """Say of each task what became of it.

    Args:
        run: with its curves.
        balance: the records of its balancer, if it had one.
        losses: what these hold; training losses say nothing about a task's validation loss.
    """
    if run.objective.better == "max":  # what is diagnosed is a loss
        return []
    # A system without tasks may have one loss, and results of several parts.
    names = run.tasks if run.system == MULTITASK or {*run.tasks} & {*run.curves} else [*run.curves]
    found = [_follow(task, run, balance, losses == "validation") for task in names]
    gains = [-task.change for task in found if math.isfinite(task.change)]
    median = float(np.median(gains)) if len(gains) > 1 else 0.0
    return [
        TaskDiagnosis(**{**vars(task), "verdict": "left behind"})
        if task.verdict == "still falling" and -task.change < LEFT_BEHIND * median
        else task
        for task in found
    ]


def _follow(name: str, run: Run, balance: BalanceTable | None, on_validation: bool) -> TaskDiagnosis:
    curve = {step: loss for step, loss in run.curves.get(name, {}).items() if math.isfinite(loss)}
    known: dict[str, Any] = {}
    start = math.nan
    if balance is not None and name in balance.tasks:
        k = balance.tasks.index(name)
        known = {"slope": float(balance.slope[-1, k]), "weights": balance.weight[:, k].tolist()}
        there = np.flatnonzero(np.isfinite(balance.ratio[:, k]) & (balance.ratio[:, k] > 0))
        if on_validation and there.size:
            start = float(balance.loss[there[0], k] / balance.ratio[there[0], k])
            curve = curve or dict(zip(balance.steps[there].tolist(), balance.loss[there, k].tolist(), strict=True))
    if not curve:
        return TaskDiagnosis(name, **known)
    steps = sorted(curve)
    best = min(steps, key=lambda step: (curve[step], step))
    task = TaskDiagnosis(
        name,
        start=start if math.isfinite(start) else curve[steps[0]],
        lowest=curve[best],
        lowest_step=float(best),
        last=curve[steps[-1]],
        **known,
    )
    return TaskDiagnosis(**{**vars(task), "verdict": _verdict(task, [curve[step] for step in steps])})


def _verdict(task: TaskDiagnosis, losses: Sequence[float]) -> str:
    if task.change > 0:
        return "worse than at the start"
    if len(losses) == 1:
        return "one pass"
    if task.rise > BURNT_OUT:
        return "burnt out"
    before = min(losses[: -math.ceil(len(losses) / 4)])
    falls = task.last == task.lowest and task.last < (1 - STILL_FALLING) * before
    return "still falling" if falls else "converged"


def _balance(file: Path) -> tuple[BalanceTable | None, str]:
    if not file.is_file():
        return None, ""
    try:
        return read_balance(file), ""
    except ValueError as error:  # half-written, or none yet
        return None, str(error)


def _unfinished(run: Run) -> str:
    return "" if run.is_complete else f"The run is {run.status}: {run.error}."


def _oddities(run: Run, balance: BalanceTable | None, losses: str) -> list[str]:
    notes = []
    if run.status == "finished" and run.system == MULTITASK and not run.before.values:
        notes.append("The loss before training was not measured on the test split (test_before=false).")
    if balance is not None:
        absent = int((~np.isfinite(balance.loss)).sum())
        if absent and losses == "validation":  # a training step may well be without some tasks
            notes.append(
                f"{absent} of {balance.loss.size} losses in the records are missing: the task was absent, or its loss "
                "was NaN or infinite and was left out."
            )
        scored = np.isfinite(balance.rcs).any()
        if run.method == "CoBa" and not scored:
            notes.append(
                f"All {len(balance.records)} records are within CoBa's warm-up, so the weights stayed equal. Validate "
                "more often (trainer.val_check_interval)."
            )
    return notes
