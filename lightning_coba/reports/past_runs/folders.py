"""Read the validation losses of a run of this package, and the settings it was trained with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_coba.log_keys import VAL_LOSS, task_key
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.past_runs.tables import read_table
from lightning_coba.reports.past_runs.tasks import task_losses
from lightning_coba.runs.card import mapping
from lightning_coba.runs.collection import read_run
from lightning_coba.runs.files import RunFiles
from lightning_coba.runs.own_balancer import own_balancer
from lightning_coba.runs.settings import read_settings
from lightning_coba.simplex.records import BalanceTable, read_balance


def is_run_folder(path: Path) -> bool:
    """Return whether a path is a run folder of this package, or its record of losses."""
    if path.is_dir():
        files = RunFiles(path)
        return files.balance.is_file() or files.card.is_file()
    files = RunFiles(path.parent)
    return path == files.balance or (path == files.metrics and files.card.is_file())


def read_run_folder(path: Path, tasks: Sequence[str] | None = None) -> LossTable:
    """Read the balancer's records where they are of held-out losses, else the validation passes.

    Args:
        path: Run folder, or its ``balance.csv`` or ``metrics.csv``.
        tasks: Names; None = all.

    Raises:
        FileNotFoundError: The run has written neither.
        ValueError: It holds no validation loss, or not of these tasks.
    """
    folder = path if path.is_dir() else path.parent
    run = read_run(folder)
    balance = run.last_fit_with(lambda fit: fit.balance).balance
    metrics = run.last_fit_with(lambda fit: fit.metrics).metrics
    settings = _balancer_settings(RunFiles(folder).settings)
    of_training = _is_of_training(settings)
    if path.name != metrics.name and balance.is_file() and not of_training:
        return _of_records(folder, balance, tasks, settings)
    if not metrics.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {metrics.name} yet. Wait for the run's first validation pass, or give another run."
        )
    log = read_table(metrics)
    logged = {name for row in log.rows for name in row.values}
    # The metrics of a run may hold more under the names of its tasks.
    named = [task for task in run.tasks if task_key(VAL_LOSS, task) in logged]
    found = task_losses(log, tasks or named or None, f"{VAL_LOSS}/{{task}}")
    notes = list(found.notes)
    if of_training:
        notes.insert(0, f"{_class(settings)} works on training losses; its validation passes are replayed.")
    # A row is numbered by the step during which it was logged, from 0.
    return LossTable(found.tasks, found.steps + 1, found.losses, source=str(folder), notes=notes)


def _of_records(folder: Path, file: Path, tasks: Sequence[str] | None, settings: Mapping[str, Any]) -> LossTable:
    balance = read_balance(file)
    own = own_balancer(settings, balance)
    kept = _columns(balance.tasks, tasks, file)
    is_whole = len(kept) == len(balance.tasks)
    notes = [f"Records: {file}."]
    if own is None and settings:
        notes.append(f"The run was trained with {_class(settings) or 'no balancer'}.")
    return LossTable(
        tasks=[balance.tasks[k] for k in kept],
        steps=balance.steps,
        losses=balance.loss[:, kept],
        source=str(folder),
        initial=_baseline(balance)[kept],
        balancer=own if is_whole else None,
        weights=balance.weight[:, kept] if is_whole else None,
        notes=notes,
    )


def _baseline(balance: BalanceTable) -> NDArray[np.float64]:
    """Return each task's V(0), which its losses were divided by; NaN where its records do not tell."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotients = balance.loss / balance.ratio
    there = np.isfinite(quotients)
    first = quotients[there.argmax(axis=0), np.arange(len(balance.tasks))]
    return np.where(there.any(axis=0), first, np.nan)


def _columns(known: Sequence[str], tasks: Sequence[str] | None, file: Path) -> list[int]:
    unknown = [task for task in tasks or () if task not in known]
    if unknown:
        raise ValueError(
            f"`read_losses.tasks` must name tasks of {file}; it has no {', '.join(unknown)}. The tasks are: "
            f"{', '.join(known)}."
        )
    return [known.index(task) for task in (tasks or known)]


def _balancer_settings(file: Path) -> Mapping[str, Any]:
    try:
        return mapping(read_settings(file).get("balancer"))
    except (OSError, ValueError):
        return {}


def _class(settings: Mapping[str, Any]) -> str:
    inner = settings.get("balancer") or {}
    return str(inner.get("_target_", "")).rpartition(".")[2]


def _is_of_training(settings: Mapping[str, Any]) -> bool:
    """Return whether the balancer's records hold the losses of training steps."""
    name = _class(settings)
    if not name:
        return False
    from lightning_coba import balancers

    method = getattr(balancers, name, None)
    if method is None:
        return False
    inner = {key: value for key, value in settings["balancer"].items() if key != "_target_"}
    try:
        needs = method(**inner).needs
    except (TypeError, ValueError):  # of another version of this package
        return False
    return bool(needs) and "losses" not in needs
