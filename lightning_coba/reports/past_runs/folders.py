"""Read the validation losses of a run of this package, and the settings it was trained with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from lightning_coba.log_keys import VAL_LOSS, task_key
from lightning_coba.reports.past_runs.tables import read_table
from lightning_coba.reports.past_runs.tasks import task_losses
from lightning_coba.simplex.records import BALANCE_FILE, BalanceTable, read_balance

if TYPE_CHECKING:
    from lightning_coba.balancers import CoBa
    from lightning_coba.reports.past_runs.reading import LossTable

METRICS_FILE = "metrics.csv"


def is_run_folder(path: Path) -> bool:
    """Return whether a path is a run folder of this package, or its record of losses."""
    if path.is_file():
        return path.name == BALANCE_FILE or (path.name == METRICS_FILE and (path.parent / "run.json").is_file())
    return (path / BALANCE_FILE).is_file() or (path / "run.json").is_file()


def read_run_folder(path: Path, tasks: Sequence[str] | None = None) -> "LossTable":
    """Read the balancer's records where they are of held-out losses, else the validation passes.

    Args:
        path: a run folder, or its ``balance.csv`` or ``metrics.csv``.
        tasks: names; None = all.

    Raises:
        FileNotFoundError: the run has written neither.
        ValueError: it holds no validation loss, or not of these tasks.
    """
    from lightning_coba.reports.past_runs.reading import LossTable

    folder = path.parent if path.is_file() else path
    settings = _balancer_settings(folder / "config.yaml")
    records = folder / BALANCE_FILE
    if path.name != METRICS_FILE and records.is_file() and not _is_of_training(settings):
        balance = read_balance(records)
        own = own_balancer(settings, balance)
        kept = _columns(balance.tasks, tasks, records)
        notes = [f"Records: {records}."]
        if own is None and settings:
            notes.append(f"The run was trained with {_class(settings) or 'no balancer'}.")
        return LossTable(
            tasks=[balance.tasks[k] for k in kept],
            steps=balance.steps,
            losses=balance.loss[:, kept],
            source=str(folder),
            initial=_baseline(balance)[kept],
            balancer=own if len(kept) == len(balance.tasks) else None,
            weights=balance.weight[:, kept] if len(kept) == len(balance.tasks) else None,
            notes=notes,
        )
    file = folder / METRICS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {METRICS_FILE} yet. Wait for the run's first validation pass, or give another run."
        )
    log = read_table(file)
    logged = {name for row in log.rows for name in row.values}
    named = [task for task in _named_tasks(folder) if task_key(VAL_LOSS, task) in logged]
    found = task_losses(log, tasks or named or None, f"{VAL_LOSS}/{{task}}")
    notes = list(found.notes)
    if _is_of_training(settings):
        notes.insert(0, f"{_class(settings)} works on training losses; its validation passes are replayed.")
    # A row is numbered by the step during which it was logged, from 0.
    return LossTable(found.tasks, found.steps + 1, found.losses, source=str(folder), notes=notes)


def own_balancer(settings: Mapping[str, Any], balance: BalanceTable) -> "CoBa | None":
    """Return the CoBa that a run was trained with; None where it was another method, or cannot be known."""
    if settings.get("_target_", "").rpartition(".")[2] != "ConvergenceBalancer":
        return None
    from lightning_coba.balancers import CoBa

    named = {field.name: settings.get(field.name) for field in fields(CoBa)}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    by_steps = settings.get("every_n_steps") or settings.get("max_overhead")
    if by_steps and "window_records" not in given:
        # The defaults then are passes over the held-out rows. How many records one is, only the first record with
        # scores tells: the warm-up, where it was left to its default too, is one pass.
        scored = np.isfinite(balance.rcs).any(axis=1)
        if not scored.any() or "warmup_records" in given:
            return None
        passes = int(balance.records[scored.argmax()]) + (given.get("form") == "mftcoder")
        given |= {"warmup_records": passes, "window_records": 5 * passes}
    return CoBa(**given)


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
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    found = settings.get("balancer") if isinstance(settings, dict) else None
    return found if isinstance(found, dict) else {}


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


def _named_tasks(folder: Path) -> list[str]:
    """Return the tasks that a run names; its metrics may hold more under their names."""
    try:
        card = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    named = card.get("tasks") if isinstance(card, dict) else None
    return list(map(str, named)) if isinstance(named, list) else []
