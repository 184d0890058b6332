"""One run from instantiated parts to the files in its folder."""

from collections.abc import Mapping
from math import isfinite, nan
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from omegaconf import OmegaConf
from rich.console import Console

from lightning_coba.balancing import TaskBalancing
from lightning_coba.cache_folder import cache_folder
from lightning_coba.callbacks import StepTimer
from lightning_coba.cli.errors import one_line
from lightning_coba.data import MultitaskDataModule
from lightning_coba.log_keys import TEST_ACCURACY, TEST_EXACT_MATCH, TEST_LOSS, task_key
from lightning_coba.loggers import MetricsCSV, RunTensorBoard
from lightning_coba.loggers.wandb import finish_wandb
from lightning_coba.reports import before_after_rows, before_after_table, write_before_after, write_run_page
from lightning_coba.runs.collection import flat
from lightning_coba.runs.folder_lock import locked
from lightning_coba.runs.run_folder import RunFolder, checkpoint_step, described, run_length
from lightning_coba.simplex import read_balance, write_figures
from lightning_coba.systems.multitask import MultitaskLM

#: What a run's card calls the test metrics beside the loss.
TEST_METRICS = {"accuracy": TEST_ACCURACY, "exact_match": TEST_EXACT_MATCH}


def run(settings: Mapping[str, Any], folder: RunFolder, checkpoint: Path | None) -> float:
    """Train, test before and after, and write the run folder.

    Args:
        settings: the resolved configuration.
        folder: claimed for this run.
        checkpoint: to resume from, or None.

    Returns:
        The best validation loss, NaN where no validation pass was made.
    """
    exit_code = 1
    try:
        val_loss = _run(settings, folder, checkpoint)
        exit_code = 0
        return val_loss
    except BaseException as error:  # an interrupt too
        # What fails before it trained leaves nothing, but in a sweep, where nobody watches.
        if folder.card.get("status") == "running" or (in_sweep() and folder.card.get("status") != "finished"):
            folder.write_failure(error)
            _write_page(folder)
        raise
    finally:
        finish_wandb(exit_code)


def _run(settings: Mapping[str, Any], folder: RunFolder, checkpoint: Path | None) -> float:
    console = Console()
    L.seed_everything(settings["seed"], verbose=False)
    trainer = _trainer(settings)  # first: what a logger misses is said before the model is loaded
    _refuse_sweep_of_processes(trainer)
    datamodule: MultitaskDataModule = instantiate(settings["data"], _convert_="all")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with locked(cache_folder()):  # models are converted and rows tokenised once, however many runs start together
        module = _module(settings)
        datamodule.tokenizer = module.tokenizer
        datamodule.prepare_data()
    # Bad data is reported before anything is written or trained.
    datamodule.setup("fit")
    if trainer.is_global_zero:
        console.print(datamodule.summary())
        if not trainer.fast_dev_run:
            _open_folder(settings, folder, datamodule.task_names, trainer)
            _open_loggers(settings, trainer, checkpoint)

    before = folder.card.get("test_before") if checkpoint else None
    if before is None and settings["test_before"] and not trainer.fast_dev_run:
        before = _per_task(_test(settings, module, datamodule), TEST_LOSS, datamodule.task_names)
        folder.write_card(test_before=before)
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint)
    if trainer.fast_dev_run:
        return nan

    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), None)
    best_path = best.best_model_path if best is not None else ""
    results = _test(settings, module, datamodule, best_path or None)
    after = _per_task(results, TEST_LOSS, datamodule.task_names)
    val_loss = _best_score(best, folder)
    if not trainer.is_global_zero:
        return val_loss
    _log_results(trainer, results, folder)
    _write_results(folder, trainer, module, before, after)
    if before is not None:
        console.print(before_after_table(before_after_rows(before, after, datamodule.test_tokens)))
    folder.write_card(
        status="finished",
        method=_settled_method(trainer) or folder.card["method"],
        length=run_length(settings),
        test_after=after,
        val_loss=val_loss if isfinite(val_loss) else None,
        **_measured(trainer, results, datamodule.task_names),
    )
    _write_page(folder)
    console.print(f"Everything is in {folder.path}", soft_wrap=True, highlight=False)
    return val_loss


def in_sweep() -> bool:
    """Return whether this run is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _refuse_sweep_of_processes(trainer: L.Trainer) -> None:
    """Raise ValueError where each rank would start the whole sweep again and wait for ranks of another job."""
    if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher) and in_sweep():
        raise ValueError(
            "`trainer.strategy` must not start its processes by the command line in a sweep. Set "
            "trainer.strategy=ddp_spawn, or start each run by itself."
        )


def _best_score(best: ModelCheckpoint | None, folder: RunFolder) -> float:
    if best is None:
        return nan
    score = best.best_model_score
    last = folder.path / "checkpoints" / "last.ckpt"
    if score is None and last.is_file():  # ddp_spawn leaves it in the processes that are gone
        callbacks = torch.load(last, map_location="cpu", weights_only=True)["callbacks"]
        score = callbacks[best.state_key]["best_model_score"]
    return nan if score is None else float(score)


def _module(settings: Mapping[str, Any]) -> MultitaskLM:
    # A group whose option is `none` is empty: the module's own default, or nothing.
    parts = {name: settings[name] for name in ("peft", "optimizer", "scheduler") if settings[name]}
    return instantiate(settings["model"] | parts, _convert_="all")


def _trainer(settings: Mapping[str, Any]) -> L.Trainer:
    # The balancer goes first: whoever shows or saves its numbers comes after it.
    callbacks = [settings["balancer"], *(c for c in (settings["callbacks"] or {}).values() if c)]
    loggers = [c for c in (settings["logger"] or {}).values() if c]
    return instantiate(settings["trainer"] | {"callbacks": callbacks, "logger": loggers or False}, _convert_="all")


def _open_folder(settings: Mapping[str, Any], folder: RunFolder, tasks: list[str], trainer: L.Trainer) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(dict(settings)), folder.path / "config.yaml")
    records = next((c.losses_shown for c in trainer.callbacks if isinstance(c, TaskBalancing)), None)
    folder.write_card(status="running", tasks=tasks, records=records, **described(settings))


def _open_loggers(settings: Mapping[str, Any], trainer: L.Trainer, checkpoint: Path | None) -> None:
    """Give the loggers the settings; what an earlier attempt logged behind its checkpoint is logged again."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV | RunTensorBoard):
            logger.truncate(checkpoint_step(checkpoint))
        logger.log_hyperparams(flat(settings))


def _log_results(trainer: L.Trainer, results: Mapping[str, float], folder: RunFolder) -> None:
    """Give the loggers the test results, in the row of the last step."""
    last = folder.path / "checkpoints" / "last.ckpt"
    steps = trainer.global_step or checkpoint_step(last if last.is_file() else None)  # 0 where other processes trained
    for logger in trainer.loggers:
        logger.log_metrics(results, step=max(steps - 1, 0))
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
    settings: Mapping[str, Any], module: MultitaskLM, datamodule: MultitaskDataModule, checkpoint: str | None = None
) -> dict[str, float]:
    """Return what the test pass logged, with a Trainer of its own: the run's logs stay the run's."""
    progress = [c for name, c in (settings["callbacks"] or {}).items() if name == "progress" and c]
    plain = {"callbacks": progress, "logger": False, "enable_checkpointing": False}
    tester: L.Trainer = instantiate(settings["trainer"] | plain, _convert_="all")
    [results] = tester.test(module, datamodule=datamodule, ckpt_path=checkpoint, verbose=False)
    return {key: float(value) for key, value in results.items()}


def _per_task(results: Mapping[str, float], prefix: str, tasks: list[str]) -> dict[str, float]:
    return {task: results[task_key(prefix, task)] for task in tasks if task_key(prefix, task) in results}


def _measured(trainer: L.Trainer, results: Mapping[str, float], tasks: list[str]) -> dict[str, Any]:
    """Return what there is of the test pass's metrics and of the training's times."""
    metrics = {name: _per_task(results, key, tasks) for name, key in TEST_METRICS.items()}
    timer = next((callback for callback in trainer.callbacks if isinstance(callback, StepTimer)), None)
    found = {
        "test_metrics": {name: values for name, values in metrics.items() if values},
        "timing": timer.timing if timer else {},
    }
    return {name: values for name, values in found.items() if values}


def _settled_method(trainer: L.Trainer) -> str | None:
    """Return what the balancer that trained calls itself; None where it is in processes that are gone."""
    balancers = (c.balancer for c in trainer.callbacks if isinstance(c, TaskBalancing))
    balancer = next(balancers, None)
    return None if balancer is None else getattr(balancer, "label", type(balancer).__name__)


def _write_results(
    folder: RunFolder,
    trainer: L.Trainer,
    module: MultitaskLM,
    before: Mapping[str, float] | None,
    after: Mapping[str, float],
) -> None:
    module.save_pretrained(folder.path / ("adapter" if module.has_adapter else "model"))
    module.tokenizer.save_pretrained(folder.path / "tokenizer")
    if before is not None:
        write_before_after(folder.path / "before_after.csv", before_after_rows(before, after))
    balance = folder.path / "balance.csv"
    if balance.is_file() and len(balance.read_text(encoding="utf-8").splitlines()) > 1:  # not before the first record
        balancer = next(c for c in trainer.callbacks if isinstance(c, TaskBalancing))  # whose records these are
        write_figures(read_balance(balance), folder.path / "figures", balancer.losses_shown)
