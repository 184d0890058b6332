"""One run: its fits one after the other, each from its settings to the files in its folder."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.console import Console

from lightning_coba.callbacks import BestCheckpoint
from lightning_coba.cli.fit_folder import (
    complete_page,
    log_results,
    open_folder,
    open_loggers,
    say_where_it_begins,
    settled_method,
    show_account,
    show_before_after,
    timing_of,
    write_end,
    write_page,
    write_results,
)
from lightning_coba.cli.kept_weights import best_score, load_weights, with_what_is_kept
from lightning_coba.cli.outcome import outcome_of
from lightning_coba.cli.phases import Fit
from lightning_coba.cli.ranks import end_other_ranks, waiting_for_ranks, watch_over, write_when_stuck
from lightning_coba.cli.stop_between_steps import StopBetweenSteps
from lightning_coba.cli.stopping import stop_behind
from lightning_coba.cli.system import build_system, card_of, objective_of, objective_value, results_of
from lightning_coba.errors import DamagedFileError, DivergedError, UserError
from lightning_coba.lightning_internals import raised_while_restoring, retire_observer, starts_by_command_line
from lightning_coba.loggers.wandb import finish_wandb
from lightning_coba.runs.card import objective_of as objective_on_card
from lightning_coba.runs.checkpoint_file import load_checkpoint, written_whole
from lightning_coba.runs.instantiation import built
from lightning_coba.runs.run_folder import RunFolder, run_length
from lightning_coba.user_files import reason


def run(fits: Sequence[Fit], folder: RunFolder, resume: Any) -> float:
    """Make the fits of a run that are not finished yet, and write the run's results.

    Args:
        fits: in their order.
        folder: of the run, held by this process.
        resume: false, or "auto".

    Returns:
        What a sweep minimises: the objective of the last fit, negative where higher is better; NaN where there is none.

    Raises:
        ValueError: if a fit was made longer after a later one had begun, which then rests on another.
    """
    parts = [RunFolder(folder.path, fit.phase) for fit in fits]
    _refuse_outdated(fits, parts)
    checkpoints = [part.claim(resume, fit.settings) for fit, part in zip(fits, parts, strict=True)]
    if all(part.is_finished(fit.settings) for fit, part in zip(fits, parts, strict=True)):
        complete_page(folder)
        print(f"The run in {folder.path} is finished; its results are there. Start another with name=...")
        return _to_minimise(folder.card.get("objective"))
    exit_code = 1
    part = parts[0]
    write_when_stuck(lambda error: write_end(part, outcome_of(error).status, error, in_sweep()))
    try:
        for fit, part, checkpoint in zip(fits, parts, checkpoints, strict=True):
            if not part.is_finished(fit.settings):
                objective = _fit(fit, part, checkpoint, is_last=fit is fits[-1])
                finish_wandb(0)  # the next phase would be logged to the same W&B run
            if fit.settings["trainer"].get("fast_dev_run"):
                break  # it leaves nothing that a later phase could read
        exit_code = 0
        return _to_minimise(objective)
    except BaseException as error:
        retire_observer()
        with suppress(OSError):  # a full disk: the run stays as it was, which resume=auto accepts
            write_end(part, outcome_of(error).status, error, in_sweep())
        end_other_ranks()
        if stop := stop_behind(error):
            stop.folder = folder.path if folder.card else None
            raise stop from error
        raise
    finally:
        finish_wandb(exit_code)


def _refuse_outdated(fits: Sequence[Fit], parts: Sequence[RunFolder]) -> None:
    for i, (fit, part) in enumerate(zip(fits, parts, strict=True)):
        begun = [later.phase for later in parts[i + 1 :] if later.entries]
        if begun and part.entries.get("status") == "finished" and not part.is_finished(fit.settings):
            raise UserError(
                f"`{part.phase}` was finished, and is now to be longer, but {', '.join(map(str, begun))} began with "
                "what it had found.",
                f"Start another run with name=..., or delete {parts[i + 1].files.folder} and what comes after it.",
            )


def _fit(fit: Fit, folder: RunFolder, checkpoint: Path | None, is_last: bool) -> Mapping[str, Any] | None:
    """Train, test before and after, and write the folder of one fit; return the objective as the card holds it."""
    settings = fit.settings
    console = Console()
    if fit.phase:
        console.print(f"Phase {fit.phase}", style="bold")
    L.seed_everything(settings["seed"], verbose=False)
    trainer = _trainer(settings)  # first: what a logger misses is said before the model is loaded
    _refuse_sweep_of_processes(trainer)
    module, datamodule = _parts(settings)
    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), None)
    if isinstance(best, BestCheckpoint):
        best.ask(module)
    if trainer.is_global_zero:
        if hasattr(datamodule, "summary"):
            console.print(datamodule.summary())
        console.print(f"Precision {trainer.precision} (trainer.precision)", highlight=False)
        if not trainer.fast_dev_run:
            say_where_it_begins(folder, checkpoint, trainer.max_steps)
            open_folder(fit, folder, trainer, {"objective": _objective(module)} | card_of(module, datamodule))
            open_loggers(settings, trainer, checkpoint)

    before = folder.entries.get("results_before") if checkpoint else None
    if before is None and settings["test_before"] and not trainer.fast_dev_run:
        before = results_of(module, tested) if (tested := _test(settings, module, datamodule)) else None
        if before:
            folder.write_entries(results_before=before)
    try:
        _train(trainer, module, datamodule, checkpoint)
    except DivergedError as error:
        raise with_what_is_kept(error, folder, trainer, module, best) from error
    if trainer.fast_dev_run:
        return None

    if not trainer.enable_validation and trainer.global_step:  # `LastCheckpoint` writes after validation passes
        with written_whole(trainer, folder.files.last_checkpoint, folder.files.previous_checkpoint) as partial:
            trainer.save_checkpoint(partial)
    logged = dict(trainer.callback_metrics)
    chosen = best.best_model_path if best is not None else ""
    tested = _test(settings, module, datamodule, chosen or None)
    if not tested and chosen:
        load_weights(module, chosen)
    objective = _objective(module)
    value = objective_value(objective["key"], best, best_score(best, folder), [logged, tested])
    objective["value"] = value if isfinite(value) else None
    if hasattr(module, "assemble"):
        module.assemble()
    if trainer.is_global_zero:
        results = results_of(module, tested)
        log_results(trainer, tested, folder)
        write_results(folder, trainer, module)
        show_before_after(folder, before or {}, results, getattr(datamodule, "test_tokens", None))
        show_account(folder, settings, trainer.global_step)
        entries = {"results": results, "objective": objective, "length": run_length(settings), **timing_of(trainer)}
        _finish(folder, entries, settled_method(trainer), is_last)
    return objective


def _train(trainer: L.Trainer, module: L.LightningModule, datamodule: Any, checkpoint: Path | None) -> None:
    """Fit; a checkpoint that the run cannot go on from is told as a damaged file."""
    try:
        with waiting_for_ranks(trainer):
            trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint)
    except UserError:
        raise
    except Exception as error:
        _explain_long_interval(trainer, error)
        if checkpoint is None or not raised_while_restoring(error):
            raise
        raise DamagedFileError(
            f"the checkpoint does not fit this run ({reason(error)}).",
            "Restore it, or delete it: the run then continues from an earlier checkpoint, or starts over.",
            where=str(checkpoint),
        ) from error


def _explain_long_interval(trainer: L.Trainer, error: Exception) -> None:
    """Raise UserError where Lightning refused to count the batches between passes across epochs."""
    interval, batches = trainer.val_check_interval, trainer.num_training_batches
    if isinstance(interval, int) and trainer.check_val_every_n_epoch is not None and interval > batches > 0:
        raise UserError(
            f"`trainer.val_check_interval` must be at most the {batches:,} batches of an epoch; got {interval}.",
            "Add trainer.check_val_every_n_epoch=null, which counts batches across epochs.",
        ) from error


def _parts(settings: Mapping[str, Any]) -> tuple[L.LightningModule, Any]:
    """Return the system and its data, None where it has none of its own.

    Data that can be shown are read: what is wrong with them is said before anything is written or trained.
    """
    datamodule: Any = built(settings["data"], "data") if settings.get("data") else None
    module = build_system(settings)
    if hasattr(datamodule, "prepare_for"):
        datamodule.prepare_for(module)
    if hasattr(datamodule, "summary"):
        datamodule.prepare_data()
        datamodule.setup("fit")
    return module, datamodule


def _objective(module: L.LightningModule) -> dict[str, Any]:
    """Return the objective as the card holds it, without its value."""
    key, better = objective_of(module)
    return {"key": key, "better": better, "value": None}


def _finish(folder: RunFolder, entries: Mapping[str, Any], method: str | None, is_last: bool) -> None:
    """Say that a fit is finished; after the last one the run is. All of it is said in one move."""
    entries = {"status": "finished", **entries}
    if not is_last:
        folder.write_entries(**entries)
        return
    card = folder.card
    phases = {"phases": card["phases"] | {folder.phase: folder.entries | entries}} if folder.phase else {}
    folder.write_card(**folder.entries.get("card", {}) | entries | phases, method=method or card["method"])
    write_page(folder)
    Console().print(f"Everything is in {folder.path}", soft_wrap=True, highlight=False)


def _to_minimise(entry: Mapping[str, Any] | None) -> float:
    objective = objective_on_card(entry)
    return objective.value if objective.better == "min" else -objective.value


def in_sweep() -> bool:
    """Return whether this run is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _refuse_sweep_of_processes(trainer: L.Trainer) -> None:
    """Raise ValueError where each rank would start the whole sweep again and wait for ranks of another job."""
    if starts_by_command_line(trainer) and in_sweep():
        raise UserError(
            "`trainer.strategy` must not start its processes by the command line in a sweep.",
            "Set trainer.strategy=ddp_spawn, or start each run by itself.",
        )


def _trainer(settings: Mapping[str, Any]) -> L.Trainer:
    # The balancer goes first: whoever shows or saves its numbers comes after it.
    callbacks = [settings["balancer"], *(settings["callbacks"] or {}).values(), StopBetweenSteps()]
    loggers = [c for c in (settings["logger"] or {}).values() if c]
    parts = {"callbacks": [c for c in callbacks if c], "logger": loggers or False}
    return _instantiated(settings["trainer"] | parts)


def _instantiated(trainer: Mapping[str, Any]) -> L.Trainer:
    made: L.Trainer = built(trainer, "trainer")
    watch_over(made)
    return made


def _test(
    settings: Mapping[str, Any], module: L.LightningModule, datamodule: Any, checkpoint: str | None = None
) -> dict[str, float]:
    """Return what the test pass logged, with a Trainer of its own: the run's logs stay the run's.

    Nothing where the system has no test. The module keeps that Trainer, which has the results.
    """
    if not is_overridden("test_step", module) or not (
        is_overridden("test_dataloader", module) or is_overridden("test_dataloader", datamodule, L.LightningDataModule)
    ):
        return {}
    if checkpoint is not None:
        load_checkpoint(Path(checkpoint))  # before Lightning reads it, which trusts it
    progress = [c for name, c in (settings["callbacks"] or {}).items() if name == "progress" and c]
    plain = {"callbacks": progress, "logger": False, "enable_checkpointing": False}
    tester = _instantiated(settings["trainer"] | plain)
    with waiting_for_ranks(tester):
        logged = tester.test(module, datamodule=datamodule, ckpt_path=checkpoint, verbose=False)
    module.trainer = tester
    return {key: float(value) for values in logged for key, value in values.items()}
