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
from omegaconf import OmegaConf
from rich.console import Console

from lightning_coba.cli.run_folder import RunFolder, checkpoint_step, run_length
from lightning_coba.data import MultitaskDataModule
from lightning_coba.log_keys import TEST_LOSS, task_key
from lightning_coba.modules import MultitaskLM
from lightning_coba.reports import (
    MetricsCSV,
    before_after_rows,
    before_after_table,
    read_balance,
    write_before_after,
    write_figures,
)


def run(settings: Mapping[str, Any], folder: RunFolder, checkpoint: Path | None) -> float:
    """Train, test before and after, and write the run folder.

    Args:
        settings: the resolved configuration.
        folder: claimed for this run.
        checkpoint: to resume from, or None.

    Returns:
        The best validation loss, NaN where no validation pass was made.
    """
    try:
        return _run(settings, folder, checkpoint)
    except BaseException:  # an interrupt too
        if folder.card.get("status") == "running":
            folder.write_card(status="failed")
        raise


def _run(settings: Mapping[str, Any], folder: RunFolder, checkpoint: Path | None) -> float:
    console = Console()
    L.seed_everything(settings["seed"], verbose=False)
    datamodule: MultitaskDataModule = instantiate(settings["data"], _convert_="all")
    module = _module(settings)
    trainer = _trainer(settings)
    _refuse_sweep_of_processes(trainer)
    # Bad data is reported before anything is written or trained.
    datamodule.tokenizer = module.tokenizer
    datamodule.setup("fit")
    if trainer.is_global_zero:
        console.print(datamodule.summary())
        if not trainer.fast_dev_run:
            _open_folder(settings, folder, datamodule.task_names)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.truncate(checkpoint_step(checkpoint))

    before = folder.card.get("test_before") if checkpoint else None
    if before is None and settings["test_before"] and not trainer.fast_dev_run:
        before = _test(settings, module, datamodule)
        folder.write_card(test_before=before)
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint)
    if trainer.fast_dev_run:
        return nan

    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)), None)
    best_path = best.best_model_path if best is not None else ""
    after = _test(settings, module, datamodule, best_path or None)
    val_loss = _best_score(best, folder)
    if not trainer.is_global_zero:
        return val_loss
    _write_results(folder, module, before, after)
    if before is not None:
        console.print(before_after_table(before_after_rows(before, after, datamodule.test_tokens)))
    folder.write_card(
        status="finished",
        length=run_length(settings),
        test_after=after,
        val_loss=val_loss if isfinite(val_loss) else None,
    )
    console.print(f"Everything is in {folder.path}", soft_wrap=True, highlight=False)
    return val_loss


def _refuse_sweep_of_processes(trainer: L.Trainer) -> None:
    """Raise ValueError where each rank would start the whole sweep again and wait for ranks of another job."""
    launched = isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)
    if launched and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
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


def _open_folder(settings: Mapping[str, Any], folder: RunFolder, tasks: list[str]) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(dict(settings)), folder.path / "config.yaml")
    balancer = settings["balancer"]
    method = balancer.get("balancer", balancer)["_target_"].rpartition(".")[-1]
    folder.write_card(
        status="running",
        name=settings["name"],
        tasks=tasks,
        method="CoBa" if method == "ConvergenceBalancer" else method,
        seed=settings["seed"],
        suite=settings["suite"],
    )


def _test(
    settings: Mapping[str, Any], module: MultitaskLM, datamodule: MultitaskDataModule, checkpoint: str | None = None
) -> dict[str, float]:
    """Return each task's test loss, with a Trainer of its own: the run's logs stay the run's."""
    progress = [c for name, c in (settings["callbacks"] or {}).items() if name == "progress" and c]
    plain = {"callbacks": progress, "logger": False, "enable_checkpointing": False}
    tester: L.Trainer = instantiate(settings["trainer"] | plain, _convert_="all")
    [results] = tester.test(module, datamodule=datamodule, ckpt_path=checkpoint, verbose=False)
    return {task: float(results[task_key(TEST_LOSS, task)]) for task in datamodule.task_names}


def _write_results(
    folder: RunFolder, module: MultitaskLM, before: Mapping[str, float] | None, after: Mapping[str, float]
) -> None:
    module.save_pretrained(folder.path / ("adapter" if module.has_adapter else "model"))
    module.tokenizer.save_pretrained(folder.path / "tokenizer")
    if before is not None:
        write_before_after(folder.path / "before_after.csv", before_after_rows(before, after))
    balance = folder.path / "balance.csv"
    if balance.is_file():
        table = read_balance(balance)
        if len(table.records):
            write_figures(table, folder.path / "figures")
