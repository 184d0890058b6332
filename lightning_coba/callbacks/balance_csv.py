from os import PathLike
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from lightning_coba.balancing.task_balancing import TaskBalancing
from lightning_coba.simplex.trajectory import csv_rows, write_csv


class BalanceCSV(L.Callback):
    """Write the records of the run's balancer to a CSV file, one row a record and task, while the run goes on.

    A resumed run writes the file anew from the records in the checkpoint, so nothing is lost and nothing doubled.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._written = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with the records that the checkpoint brought."""
        self._written = -1
        self._write(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step cadence: write as often as the Trainer logs."""
        if trainer.global_step % trainer.log_every_n_steps == 0:
            self._write(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation cadence: write the record just taken."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what is left."""
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        balancers = [callback for callback in trainer.callbacks if isinstance(callback, TaskBalancing)]
        if not balancers or not trainer.is_global_zero or balancers[0].num_records == self._written:
            return
        history = balancers[0].history
        first = max(self._written, 0)
        write_csv(self.path, csv_rows(history, balancers[0].tasks, first), append=self._written >= 0)
        self._written = len(history["record"])
