"""One run: its fits one after the other, each from its settings to the files in its folder."""

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.console import Console

from lightning_coba.balancing import TaskBalancing
from lightning_coba.cache_folder import cache_folder
from lightning_coba.callbacks import BestCheckpoint, StepTimer
from lightning_coba.cli.errors import one_line
from lightning_coba.cli.phases import Fit
from lightning_coba.cli.system import build_system, card_of, objective_of, objective_value, results_of
from lightning_coba.lightning_internals import starts_by_command_line
from lightning_coba.log_keys import TEST_LOSS
from lightning_coba.loggers import MetricsCSV, RunTensorBoard
from lightning_coba.loggers.wandb import finish_wandb
from lightning_coba.reports import before_after_rows, before_after_table, write_before_after, write_run_page
from lightning_coba.runs.collection import flat
from lightning_coba.runs.folder_lock import locked
from lightning_coba.runs.run_folder import RunFolder, run_length
from lightning_coba.simplex import read_balance, write_figures
from lightning_coba.simplex.records import Losses


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
        print(f"The run in {folder.path} is finished; its results are there. Start another with name=...")
        return _to_minimise(folder.card.get("objective"))
    exit_code = 1
    part = parts[0]
    try:
        for fit, part, checkpoint in zip(fits, parts, checkpoints, strict=True):
            if not part.is_finished(fit.settings):
                objective = _fit(fit, part, checkpoint, is_last=fit is fits[-1])
                finish_wandb(0)  # the next phase would be logged to the same W&B run
            if fit.settings["trainer"].get("fast_dev_run"):
                break  # it leaves nothing that a later phase could read
        exit_code = 0
        return _to_minimise(objective)
    except BaseException as error:  # an interrupt too
        # What fails before it trained leaves nothing, but in a sweep, where nobody watches.
        if folder.card.get("status") == "running" or (in_sweep() and folder.card.get("status") != "finished"):
            part.write_failure(error, one_line(error))
            _write_page(folder)
        raise
    finally:
        finish_wandb(exit_code)


def _refuse_outdated(fits: Sequence[Fit], parts: Sequence[RunFolder]) -> None:
    for i, (fit, part) in enumerate(zip(fits, parts, strict=True)):
        begun = [later.phase for later in parts[i + 1 :] if later.entries]
        if begun and part.entries.get("status") == "finished" and not part.is_finished(fit.settings):
            raise ValueError(
                f"`{part.phase}` was finished, and is now to be longer, but {', '.join(map(str, begun))} began with "
                f"what it had found. Start another run with name=..., or delete {parts[i + 1].files.folder} and what "
                "comes after it."
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
    datamodule: Any = instantiate(settings["data"], _convert_="all") if settings.get("data") else None
    cache_folder().mkdir(parents=True, exist_ok=True)
    with locked(cache_folder()):  # models are converted and rows tokenised once, however many runs start together
        module = build_system(settings)
        _prepare(datamodule, module)
    key, better = objective_of(module)
    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), None)
    if isinstance(best, BestCheckpoint):
        best.ask(module)
    if trainer.is_global_zero:
        if hasattr(datamodule, "summary"):
            console.print(datamodule.summary())
        if not trainer.fast_dev_run:
            said = {"objective": {"key": key, "better": better, "value": None}} | card_of(module, datamodule)
            _open_folder(fit, folder, trainer, said)
            _open_loggers(settings, trainer, checkpoint)

    before = folder.entries.get("results_before") if checkpoint else None
    if before is None and settings["test_before"] and not trainer.fast_dev_run:
        before = results_of(module, tested) if (tested := _test(settings, module, datamodule)) else None
        if before:
            folder.write_entries(results_before=before)
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint)
    if trainer.fast_dev_run:
        return None

    if not trainer.enable_validation and trainer.global_step:  # `LastCheckpoint` writes after validation passes
        trainer.save_checkpoint(folder.files.last_checkpoint)
    logged = dict(trainer.callback_metrics)
    chosen = best.best_model_path if best is not None else ""
    tested = _test(settings, module, datamodule, chosen or None)
    if not tested and chosen:
        _load_weights(module, chosen)
    value = objective_value(key, best, _best_score(best, folder), [logged, tested])
    objective = {"key": key, "better": better, "value": value if isfinite(value) else None}
    if not trainer.is_global_zero:
        return objective
    results = results_of(module, tested)
    _log_results(trainer, tested, folder)
    _write_results(folder, trainer, module)
    if before and TEST_LOSS in before and TEST_LOSS in results:
        rows = before_after_rows(before[TEST_LOSS]["values"], results[TEST_LOSS]["values"])
        write_before_after(folder.files.before_after, rows)
        tokens = getattr(datamodule, "test_tokens", None)
        console.print(
            before_after_table(before_after_rows(before[TEST_LOSS]["values"], results[TEST_LOSS]["values"], tokens))
        )
    entries = {"results": results, "objective": objective, "length": run_length(settings), **_timing(trainer)}
    folder.write_entries(status="finished", **entries)
    if is_last:
        folder.write_card(**folder.entries.get("card", {}) | {"status": "finished", **entries})
        folder.write_card(method=_settled_method(trainer) or folder.card["method"])
        _write_page(folder)
        console.print(f"Everything is in {folder.path}", soft_wrap=True, highlight=False)
    return objective


def _prepare(datamodule: Any, module: L.LightningModule) -> None:
    """Read the data where it can be shown: bad data is reported before anything is written or trained."""
    if hasattr(datamodule, "prepare_for"):
        datamodule.prepare_for(module)
    if hasattr(datamodule, "summary"):
        datamodule.prepare_data()
        datamodule.setup("fit")


def _to_minimise(objective: Mapping[str, Any] | None) -> float:
    if objective is None or objective["value"] is None:
        return nan
    return objective["value"] if objective["better"] == "min" else -objective["value"]


def in_sweep() -> bool:
    """Return whether this run is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _refuse_sweep_of_processes(trainer: L.Trainer) -> None:
    """Raise ValueError where each rank would start the whole sweep again and wait for ranks of another job."""
    if starts_by_command_line(trainer) and in_sweep():
        raise ValueError(
            "`trainer.strategy` must not start its processes by the command line in a sweep. Set "
            "trainer.strategy=ddp_spawn, or start each run by itself."
        )


def _best_score(best: ModelCheckpoint | None, folder: RunFolder) -> float:
    if best is None:
        return nan
    score, last = best.best_model_score, folder.files.last_checkpoint
    if score is None and last.is_file():  # ddp_spawn leaves it in the processes that are gone
        callbacks = torch.load(last, map_location="cpu", weights_only=True)["callbacks"]
        score = callbacks.get(best.state_key, {}).get("best_model_score")
    return nan if score is None else float(score)


def _trainer(settings: Mapping[str, Any]) -> L.Trainer:
    # The balancer goes first: whoever shows or saves its numbers comes after it.
    callbacks = [settings["balancer"], *(settings["callbacks"] or {}).values()]
    loggers = [c for c in (settings["logger"] or {}).values() if c]
    parts = {"callbacks": [c for c in callbacks if c], "logger": loggers or False}
    return instantiate(settings["trainer"] | parts, _convert_="all")


def _open_folder(fit: Fit, folder: RunFolder, trainer: L.Trainer, card: Mapping[str, Any]) -> None:
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


def _open_loggers(settings: Mapping[str, Any], trainer: L.Trainer, checkpoint: Path | None) -> None:
    """Give the loggers the settings; what an earlier attempt logged behind its checkpoint is logged again."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV | RunTensorBoard):
            logger.truncate(_step_of(checkpoint))
        logger.log_hyperparams(flat(settings))


def _step_of(checkpoint: Path | None) -> int:
    """Return the optimizer step at which a checkpoint was written; 0 for none."""
    if checkpoint is None:
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


def _log_results(trainer: L.Trainer, tested: Mapping[str, float], folder: RunFolder) -> None:
    """Give the loggers the test results, in the row of the last step."""
    last = folder.files.last_checkpoint
    steps = trainer.global_step or _step_of(last if last.is_file() else None)  # 0 where other processes trained
    for logger in trainer.loggers:
        logger.log_metrics(dict(tested), step=max(steps - 1, 0))
        logger.save()
        logger.finalize("success")


@rank_zero_only
def _write_page(folder: RunFolder) -> None:
    """Write the page of the run; a fault in it takes nothing from the run, whose results are there."""
    try:
        write_run_page(folder.path)
    except Exception as error:
        rank_zero_warn(f"The page of the run could not be written ({one_line(error)}). Try coba-report {folder.path}")


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
    progress = [c for name, c in (settings["callbacks"] or {}).items() if name == "progress" and c]
    plain = {"callbacks": progress, "logger": False, "enable_checkpointing": False}
    tester: L.Trainer = instantiate(settings["trainer"] | plain, _convert_="all")
    logged = tester.test(module, datamodule=datamodule, ckpt_path=checkpoint, verbose=False)
    module.trainer = tester
    return {key: float(value) for values in logged for key, value in values.items()}


def _load_weights(module: L.LightningModule, checkpoint: str) -> None:
    """Take over the weights of the chosen checkpoint, as a test pass would have."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state, strict=module.strict_loading)


def _timing(trainer: L.Trainer) -> dict[str, Any]:
    timer = next((callback for callback in trainer.callbacks if isinstance(callback, StepTimer)), None)
    return {"timing": timer.timing} if timer and timer.timing else {}


def _settled_method(trainer: L.Trainer) -> str | None:
    """Return what the balancer that trained calls itself; None where it is in processes that are gone."""
    balancers = (c.balancer for c in trainer.callbacks if isinstance(c, TaskBalancing))
    balancer = next(balancers, None)
    return None if balancer is None else getattr(balancer, "label", type(balancer).__name__)


def _write_results(folder: RunFolder, trainer: L.Trainer, module: Any) -> None:
    files = folder.files
    if hasattr(module, "save_pretrained"):
        module.save_pretrained(files.adapter if getattr(module, "has_adapter", False) else files.model)
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
