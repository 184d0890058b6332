"""What a fit leaves in its folder, at its beginning and at its end, and what its loggers are told."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from rich.console import Console

from lightning_coba.balancing import TaskBalancing
from lightning_coba.callbacks import StepTimer
from lightning_coba.cli.errors import one_line
from lightning_coba.cli.phases import Fit
from lightning_coba.cli.resumption import start_of
from lightning_coba.cli.trainers import in_sweep
from lightning_coba.errors import UserError
from lightning_coba.log_keys import TEST_LOSS
from lightning_coba.loggers import MetricsCSV, RunTensorBoard
from lightning_coba.loggers.wandb import finish_wandb
from lightning_coba.reports import before_after_rows, before_after_table, write_before_after, write_run_page
from lightning_coba.reports.run_page.weight_account import account_of, why_equal
from lightning_coba.runs.collection import flat
from lightning_coba.runs.redaction import without_secrets
from lightning_coba.runs.run_folder import RunFolder
from lightning_coba.runs.whole_file import follow_umask
from lightning_coba.simplex import read_balance, write_figures
from lightning_coba.simplex.records import Losses


def open_folder(fit: Fit, folder: RunFolder, trainer: L.Trainer, card: Mapping[str, Any]) -> None:
    """Write the settings and what the card says of the fit from the start."""
    folder.run.page.unlink(missing_ok=True)  # it tells of what was there before
    folder.write_settings(fit.settings)
    if fit.phase:  # the run is described by the fit that was begun last
        RunFolder(folder.path).write_settings(fit.settings)
    records = next((c.losses_shown for c in trainer.callbacks if isinstance(c, TaskBalancing)), None)
    own = {"records": records} | dict(card)
    if fit.phase:
        folder.write_entries(status="running", card=own)
        own = {"objective": card["objective"], "tasks": card["tasks"], "records": records}
    folder.write_card(**described(fit.settings) | {"status": "running"} | own)


def described(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's card says of its settings from the start."""
    named = {key: settings[key] for key in ("name", "seed", "suite")}
    return {"system": settings["system_name"], "method": _method(settings), **named}


def _method(settings: Mapping[str, Any]) -> str:
    """Return the class of the balancer; where there is none, the name of the system."""
    if not settings["balancer"]:
        return settings["system_name"]
    balancer = settings["balancer"]
    method = balancer.get("balancer", balancer)["_target_"].rpartition(".")[-1]
    return "CoBa" if method == "ConvergenceBalancer" else method


def open_loggers(settings: Mapping[str, Any], trainer: L.Trainer, steps: int) -> None:
    """Give the loggers the settings; what an earlier attempt logged behind its checkpoint is logged again.

    Args:
        settings: Of the fit.
        trainer: Has the loggers.
        steps: Optimizer steps made at the checkpoint from which the fit goes on.
    """
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV | RunTensorBoard):
            logger.truncate(steps)
        logger.log_hyperparams(flat(without_secrets(settings)))


def say_that_it_starts_over(folder: RunFolder) -> None:
    """Say that what an earlier attempt left cannot be gone on with, if there was one."""
    if folder.entries:
        Console().print(
            f"The earlier attempt in {folder.path} ended before its first checkpoint, which is written after a "
            "validation pass: the run starts over.",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )


@contextmanager
def leaving_no_refused_start(folder: RunFolder, trainer: L.Trainer) -> Iterator[None]:
    """Take away what a new run wrote where it ends by an error of the user's before its first optimizer step.

    A job of a sweep keeps its error: nobody watches it.
    """
    is_new = not any(folder.path.glob("*"))
    try:
        yield
    except UserError:
        # The Trainer has made no step where other processes trained: what they wrote tells.
        files = folder.files
        has_trained = trainer.global_step or files.metrics.exists() or files.checkpoints.exists()
        if is_new and trainer.is_global_zero and not has_trained and not in_sweep():
            finish_wandb(1)  # it writes to the folder
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def log_results(trainer: L.Trainer, tested: Mapping[str, float], folder: RunFolder) -> None:
    """Give the loggers the test results, in the row of the last step."""
    last = folder.files.last_checkpoint
    # The Trainer has made no step where other processes trained.
    steps = trainer.global_step or start_of(last if last.is_file() else None).steps
    for logger in trainer.loggers:
        logger.log_metrics(dict(tested), step=max(steps - 1, 0))
        logger.save()
        logger.finalize("success")


def write_results(folder: RunFolder, trainer: L.Trainer, module: Any) -> None:
    """Write what a user takes away: the model, the tokenizer, and figures."""
    files = folder.files
    if hasattr(module, "save_pretrained"):
        taken_away = files.adapter if getattr(module, "has_adapter", False) else files.model
        module.save_pretrained(taken_away)
        follow_umask(taken_away)
    if hasattr(module, "tokenizer"):
        module.tokenizer.save_pretrained(files.tokenizer)
    losses: Losses = next((c.losses_shown for c in trainer.callbacks if isinstance(c, TaskBalancing)), "validation")
    for records in files.records():
        if len(records.read_text(encoding="utf-8").splitlines()) > 1:  # not before the first record
            folder_of = files.figures if records == files.balance else files.figures / records.stem
            write_figures(read_balance(records), folder_of, losses)
    if hasattr(module, "figures"):
        files.figures.mkdir(exist_ok=True)
        module.figures(files.figures)


def show_before_after(folder: RunFolder, before: Mapping[str, Any], results: Mapping[str, Any], tokens: Any) -> None:
    """Write and print each task's test loss before and after training, where both are known."""
    if TEST_LOSS not in before or TEST_LOSS not in results:
        return
    values = before[TEST_LOSS]["values"], results[TEST_LOSS]["values"]
    write_before_after(folder.files.before_after, before_after_rows(*values))
    Console().print(before_after_table(before_after_rows(*values, tokens)))


def show_account(folder: RunFolder, settings: Mapping[str, Any], num_steps: int) -> None:
    """Print whether the weights did anything, and why."""
    if folder.files.balance.is_file() and len(folder.files.balance.read_text(encoding="utf-8").splitlines()) > 1:
        balance, known = read_balance(folder.files.balance), flat(settings)
        is_silent = _method(settings) == "CoBa" and len(balance.tasks) > 1 and not np.isfinite(balance.rcs).any()
        for sentence in [*account_of(balance, known, num_steps), *([why_equal(balance, known)] if is_silent else [])]:
            Console().print(sentence, highlight=False, markup=False, soft_wrap=True)


@rank_zero_only
def write_page(folder: RunFolder) -> None:
    """Write the page of the run; a fault in it takes nothing from the run, whose results are there."""
    try:
        write_run_page(folder.path)
    except Exception as error:
        rank_zero_warn(f"The page of the run could not be written ({one_line(error)}). Try coba-report {folder.path}")


def complete_page(folder: RunFolder) -> None:
    """Write the page of a finished run where a kill came between its last entry and its page."""
    page, card = folder.run.page, folder.run.card
    if not page.is_file() or page.stat().st_mtime_ns < card.stat().st_mtime_ns:
        write_page(folder)


def write_end(folder: RunFolder, status: str, error: BaseException, in_sweep: bool) -> None:
    """Write down what ended a run that had begun: its status at once, then its page where it failed.

    What fails before it has begun leaves nothing, but in a sweep, where nobody watches.
    """
    before = folder.card.get("status")
    was_stopped = status == "preempted"
    if before == "running" or (in_sweep and not was_stopped and before != "finished"):
        folder.write_end(status, error, one_line(error))
        if not was_stopped:  # who stops a run does not wait for a page
            write_page(RunFolder(folder.path))


def timing_of(trainer: L.Trainer) -> dict[str, Any]:
    """Return the card's entry on time, where it was measured."""
    timer = next((callback for callback in trainer.callbacks if isinstance(callback, StepTimer)), None)
    return {"timing": timer.timing} if timer and timer.timing else {}


def settled_method(trainer: L.Trainer) -> str | None:
    """Return what the balancer that trained calls itself; None where it is in processes that are gone."""
    balancers = (c.balancer for c in trainer.callbacks if isinstance(c, TaskBalancing))
    balancer = next(balancers, None)
    return None if balancer is None else getattr(balancer, "label", type(balancer).__name__)
