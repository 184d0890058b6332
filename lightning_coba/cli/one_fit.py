"""One fit of a run, from its settings to the files in its folder."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console

from lightning_coba.callbacks import BestCheckpoint
from lightning_coba.cli.fit_folder import (
    leaving_no_refused_start,
    log_results,
    open_folder,
    open_loggers,
    say_that_it_starts_over,
    settled_method,
    show_account,
    show_before_after,
    timing_of,
    write_page,
    write_results,
)
from lightning_coba.cli.kept_weights import best_score, load_weights, with_what_is_kept
from lightning_coba.cli.phases import Fit
from lightning_coba.cli.resumption import Resumption, Start
from lightning_coba.cli.system import build_system, card_of, objective_of, objective_value, results_of
from lightning_coba.cli.trainers import fit_module, measure_test, trainer_of
from lightning_coba.errors import DivergedError
from lightning_coba.runs.checkpoint_file import written_whole
from lightning_coba.runs.instantiation import built
from lightning_coba.runs.run_folder import RunFolder, run_length


class _Parts(NamedTuple):
    trainer: L.Trainer
    module: L.LightningModule
    datamodule: Any  # None where the system has no data of its own
    best: ModelCheckpoint | None


def make_fit(fit: Fit, folder: RunFolder, start: Start, is_last: bool) -> Mapping[str, Any] | None:
    """Train, test before and after, and write the folder of one fit.

    Args:
        fit: To make.
        folder: Of the fit.
        start: Where it begins.
        is_last: Whether the run is complete after it.

    Returns:
        The objective as the card holds it; None of a trial run (``trainer.fast_dev_run``), which leaves nothing.
    """
    settings, checkpoint = fit.settings, start.checkpoint
    if fit.phase:
        Console().print(f"Phase {fit.phase}", style="bold")
    L.seed_everything(settings["seed"], verbose=False)
    # The Trainer first: what a logger misses is said before the model is loaded.
    trainer = trainer_of(settings, *([Resumption(folder.path, checkpoint)] if checkpoint else []))
    parts = _parts(settings, trainer)
    if trainer.fast_dev_run:
        fit_module(*parts[:3], checkpoint)
        return None
    with leaving_no_refused_start(folder, trainer):
        if trainer.is_global_zero:
            if checkpoint is None:
                say_that_it_starts_over(folder)
            card = {"objective": _objective(parts.module)} | card_of(parts.module, parts.datamodule)
            open_folder(fit, folder, trainer, card)
            open_loggers(settings, trainer, start.steps)
        before = folder.entries.get("results_before") if checkpoint else None
        if before is None and settings["test_before"]:
            before = _before(settings, folder, parts)
        try:
            fit_module(*parts[:3], checkpoint)
        except DivergedError as error:
            raise with_what_is_kept(error, folder, *parts[:2], parts.best) from error
    return _end(settings, folder, parts, before or {}, is_last)


def _parts(settings: Mapping[str, Any], trainer: L.Trainer) -> _Parts:
    """Build the system and its data, and print what they are.

    Data that can be shown are read: what is wrong with them is said before anything is written or trained.
    """
    datamodule: Any = built(settings["data"], "data") if settings.get("data") else None
    module = build_system(settings)
    if hasattr(datamodule, "prepare_for"):
        datamodule.prepare_for(module)
    if hasattr(datamodule, "summary"):
        datamodule.prepare_data()
        datamodule.setup("fit")
    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), None)
    if isinstance(best, BestCheckpoint):
        best.ask(module)
    if trainer.is_global_zero:
        if hasattr(datamodule, "summary"):
            Console().print(datamodule.summary())
        Console().print(f"Precision {trainer.precision} (trainer.precision)", highlight=False)
    return _Parts(trainer, module, datamodule, best)


def _before(settings: Mapping[str, Any], folder: RunFolder, parts: _Parts) -> Mapping[str, Any] | None:
    """Return the results before training, kept on the card; None where the system has no test."""
    if not (logged := measure_test(settings, parts.module, parts.datamodule)):
        return None
    before = results_of(parts.module, logged)
    if before:
        folder.write_entries(results_before=before)
    return before


def _end(
    settings: Mapping[str, Any], folder: RunFolder, parts: _Parts, before: Mapping[str, Any], is_last: bool
) -> Mapping[str, Any]:
    """Test what was trained, write what a user takes away, and say that the fit is finished."""
    trainer, module, datamodule, best = parts
    if not trainer.enable_validation and trainer.global_step:  # `LastCheckpoint` writes after validation passes
        with written_whole(trainer, folder.files.last_checkpoint, folder.files.previous_checkpoint) as partial:
            trainer.save_checkpoint(partial)
    logged = dict(trainer.callback_metrics)
    chosen = best.best_model_path if best is not None else ""
    of_test = measure_test(settings, module, datamodule, chosen or None)
    if not of_test and chosen:
        load_weights(module, chosen)
    objective = _objective(module)
    value = objective_value(objective["key"], best, best_score(best, folder), [logged, of_test])
    objective["value"] = value if isfinite(value) else None
    if hasattr(module, "assemble"):
        module.assemble()
    if trainer.is_global_zero:
        results = results_of(module, of_test)
        log_results(trainer, of_test, folder)
        write_results(folder, trainer, module)
        show_before_after(folder, before, results, getattr(datamodule, "test_tokens", None))
        show_account(folder, settings, trainer.global_step)
        entries = {"results": results, "objective": objective, "length": run_length(settings), **timing_of(trainer)}
        _finish(folder, entries, settled_method(trainer), is_last)
    return objective


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
