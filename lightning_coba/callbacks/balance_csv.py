from os import PathLike
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from lightning_coba.balancing.publish import is_log_step
from lightning_coba.log_keys import BALANCE
from lightning_coba.simplex.csv_file import write_records
from lightning_coba.simplex.protocol import Simplex, simplexes_of


class BalanceCSV(L.Callback):
    """Write the records of the run's weights to CSV files while the run goes on, one row per record and name.

    It writes what any callback or module of the run moves (see :class:`~lightning_coba.simplex.MovesSimplex`). The one
    named ``balance``, or else the first one, is written to ``path``; any other to a file beside it that has its name
    behind a hyphen, such as ``balance-other_weights.csv`` for a second balancer with ``attribute="other_weights"``.

    A resumed run writes its files anew from the records in the checkpoint, so nothing is lost and nothing doubled.

    Args:
        path: File to write.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._written: dict[tuple[Path, str], int] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with the records that the checkpoint brought."""
        self._written = {}
        self._write(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step cadence: write as often as the Trainer logs."""
        if is_log_step(trainer, trainer.global_step):
            self._write(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation cadence: write the record just taken."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._write(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what is left."""
        self._write(trainer, pl_module)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        for path, simplex in self._files(simplexes_of(trainer, pl_module, with_records=False)):
            written = self._written.get((path, simplex.name))
            if written != simplex.num_records:
                self._written[path, simplex.name] = write_records(simplex, path, written)

    def _files(self, simplexes: list[Simplex]) -> list[tuple[Path, Simplex]]:
        """Return where each is written; reports read the first file."""
        first = next((simplex for simplex in simplexes if simplex.name == BALANCE), simplexes[0] if simplexes else None)
        beside = [simplex for simplex in simplexes if simplex is not first]
        others = [(self.path.with_stem(f"{self.path.stem}-{simplex.name}"), simplex) for simplex in beside]
        return [*([(self.path, first)] if first else []), *others]
