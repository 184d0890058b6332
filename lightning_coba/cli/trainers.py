"""The Trainers of a fit: one that trains, with everything that watches, and one for each test pass."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_coba.cli.new_length import NewLength
from lightning_coba.cli.ranks import waiting_for_ranks, watch_over
from lightning_coba.cli.stop_between_steps import StopBetweenSteps
from lightning_coba.errors import DamagedFileError, UserError
from lightning_coba.lightning_internals import raised_while_restoring, starts_by_command_line
from lightning_coba.runs.checkpoint_file import load_checkpoint
from lightning_coba.runs.instantiation import built
from lightning_coba.user_files import reason


def trainer_of(settings: Mapping[str, Any], *more: L.Callback) -> L.Trainer:
    """Return the Trainer of a fit, with the configured callbacks and some more.

    Raises:
        UserError: Each of its ranks would start the whole sweep again and wait for ranks of another job.
    """
    # The balancer goes first: whoever shows or saves its numbers comes after it.
    callbacks = [settings["balancer"], *(settings["callbacks"] or {}).values(), StopBetweenSteps(), *more, NewLength()]
    loggers = [c for c in (settings["logger"] or {}).values() if c]
    parts = {"callbacks": [c for c in callbacks if c], "logger": loggers or False}
    trainer = _instantiated(settings["trainer"] | parts)
    if starts_by_command_line(trainer) and in_sweep():
        raise UserError(
            "`trainer.strategy` must not start its processes by the command line in a sweep.",
            "Set trainer.strategy=ddp_spawn, or start each run by itself.",
        )
    return trainer


def fit_module(trainer: L.Trainer, module: L.LightningModule, datamodule: Any, checkpoint: Path | None) -> None:
    """Fit the module; a checkpoint that the run cannot go on from is told as a damaged file."""
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


def measure_test(
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


def _instantiated(trainer: Mapping[str, Any]) -> L.Trainer:
    made: L.Trainer = built(trainer, "trainer")
    watch_over(made)
    return made


def in_sweep() -> bool:
    """Return whether this run is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
