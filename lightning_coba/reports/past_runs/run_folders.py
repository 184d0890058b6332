"""Read the validation losses of a run of this package, and the settings it was trained with."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.log_keys import VAL_LOSS, task_key
from lightning_coba.reports.past_runs.lining_up import line_up
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.past_runs.table_files import read_table
from lightning_coba.runs.card import first_step
from lightning_coba.runs.collection import UNKNOWN, Run, read_run
from lightning_coba.runs.files import RunFiles
from lightning_coba.runs.own_balancer import own_balancer
from lightning_coba.runs.trained_run import TrainedRun
from lightning_coba.simplex.records import BalanceTable, read_balance


def is_run_folder(path: Path) -> bool:
    """Return whether a path is a run folder of this package, or its record of losses."""
    files = RunFiles(path if path.is_dir() else path.parent)
    if path.is_dir():
        return files.balance.is_file() or files.card.is_file()
    return path == files.balance or (path == files.metrics and files.card.is_file())


def read_run_folder(path: Path, tasks: Sequence[str] | None = None, pattern: str | None = None) -> LossTable:
    """Read the balancer's records where they are of held-out losses, else the validation passes.

    Args:
        path: Run folder, or its ``balance.csv`` or ``metrics.csv``.
        tasks: Names; None = all.
        pattern: How the losses of tasks are called in ``metrics.csv``, which is then read; of a system of any kind.

    Raises:
        FileNotFoundError: The run has written neither.
        ValueError: It holds no validation loss, or not of these tasks, or is of a system other than multitask.
    """
    folder = path if path.is_dir() else path.parent
    run = read_run(folder)
    run.require_card()
    if pattern is None:
        TrainedRun(folder, run.card, settings={}).require_system("coba-replay")
    balance = run.last_fit_with(lambda fit: fit.balance).balance
    metrics = run.last_fit_with(lambda fit: fit.metrics).metrics
    of_training = run.card.get("records") == "training"
    if pattern is None and path.name != metrics.name and balance.is_file() and not of_training:
        return _of_records(run, read_balance(balance), balance, tasks)
    if not metrics.is_file():
        raise MissingFileError(
            f"{folder} holds no {metrics.name} yet.", "Wait for the run's first validation pass, or give another run."
        )
    log = read_table(metrics)
    if pattern is None:  # the metrics of a run may hold more under such names than its tasks
        tasks = tasks or [task for task in run.tasks if task_key(VAL_LOSS, task) in log.columns]
    found = line_up(log, tasks, pattern or f"{VAL_LOSS}/{{task}}")
    notes = [f"{run.method} works on training losses; its validation passes are replayed."] if of_training else []
    return replace(
        found, steps=found.steps + 1 - first_step(run.card), source=str(folder), notes=[*notes, *found.notes]
    )


def _of_records(run: Run, balance: BalanceTable, file: Path, tasks: Sequence[str] | None) -> LossTable:
    if unknown := [task for task in tasks or () if task not in balance.tasks]:
        raise UserError(
            f"`read_losses.tasks` must name tasks of {file}; it has no {', '.join(unknown)}.",
            f"The tasks are: {', '.join(balance.tasks)}.",
        )
    kept = [balance.tasks.index(task) for task in tasks or balance.tasks]
    is_whole = len(kept) == len(balance.tasks)
    parts = ((key.partition("."), value) for key, value in (run.settings or {}).items())
    own = own_balancer({name: value for (group, _, name), value in parts if group == "balancer"}, balance)
    with np.errstate(divide="ignore", invalid="ignore"):  # V(0) is NaN where the records do not tell
        initial = LossTable(balance.tasks, balance.steps, balance.loss / balance.ratio).first_losses
    notes = [f"Records: {file}."]
    if own is None and run.method != UNKNOWN:
        notes.append(f"The run was trained with {run.method}.")
    return LossTable(
        tasks=[balance.tasks[k] for k in kept],
        steps=balance.steps,
        losses=balance.loss[:, kept],
        source=str(run.folder),
        initial=initial[kept],
        balancer=own if is_whole else None,
        weights=balance.weight[:, kept] if is_whole else None,
        notes=notes,
    )
