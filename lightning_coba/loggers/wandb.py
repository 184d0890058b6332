import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from lightning_coba.loggers.shown_step import shown_step
from lightning_coba.loggers.tracker_id import default_name, need_package, read_id, write_id
from lightning_coba.runs.files import RunFiles


class RunWandb(WandbLogger):
    """Log to Weights & Biases; a resumed run goes on in the same W&B run.

    Args:
        save_dir: the run folder, or that of a phase; it keeps the id of the W&B run, whose files are in ``wandb/``.
        project: where runs are compared, such as the name of the suite.
        name: of the run; default: that of its folder, with the phase behind it.
        offline: write files only, for ``wandb sync`` later. The variable ``WANDB_MODE=offline`` does the same.
        phase: name of the phase whose folder ``save_dir`` is; None where the run has one fit.
        **options: of ``wandb.init``, such as ``entity`` or ``tags``.

    Raises:
        ModuleNotFoundError: wandb is not installed; says what to type.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        project: str,
        name: str | None = None,
        offline: bool = False,
        phase: str | None = None,
        **options: Any,
    ) -> None:
        need_package("wandb", "wandb")
        self._id_file = RunFiles(Path(save_dir)).wandb_id
        super().__init__(
            name=name or default_name(save_dir, phase, longest=128),
            save_dir=save_dir,
            project=re.sub(r"[/\\#?%:]+", "-", project)[:128],
            id=read_id(self._id_file) or secrets.token_hex(4),
            offline=offline,
            **options,
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, begun or taken up at the first use."""
        began = self._experiment is None
        run = super().experiment
        if began:
            write_id(self._id_file, run.id)
        return run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics under the number of the step, counted from 1."""
        super().log_metrics(metrics, shown_step(step))


def finish_wandb(exit_code: int) -> None:
    """End the W&B run of this process, if there is one: the next run of a sweep would be logged to it."""
    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=exit_code)
