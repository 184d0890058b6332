from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from lightning_coba.errors import UserError
from lightning_coba.log_keys import VAL_LOSS
from lightning_coba.runs.checkpoint_file import written_whole


class BestCheckpoint(ModelCheckpoint):
    """Keep the weights that are best by what their module says: ``module.objective()``, a key and a direction.

    Use it where one configuration trains different systems: Lightning's ``ModelCheckpoint`` has to be told the key. It
    judges after each validation pass, before a later callback writes a checkpoint to resume from, which then knows of
    it. A module without ``objective`` is judged by the lowest ``val_loss``.

    Args:
        dirpath: folder to write to.
        filename: name of the file, without its ending.
        monitor: key to judge by instead of the module's.
        mode: direction that is better for ``monitor``: ``"min"`` or ``"max"``.
        save_top_k: number of checkpoints kept.
        save_weights_only: whether optimizer and callbacks are left out.

    Example:
        >>> BestCheckpoint().monitor is None  # until the fit begins
        True
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str = "best",
        monitor: str | None = None,
        mode: str = "min",
        save_top_k: int = 1,
        save_weights_only: bool = True,
    ) -> None:
        super().__init__(
            dirpath,
            filename,
            monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_weights_only=save_weights_only,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self._asks = monitor is None

    def ask(self, module: L.LightningModule) -> None:
        """Judge by what the module says, unless a key was given; `setup` asks too."""
        if not self._asks:
            return
        ask = getattr(module, "objective", None)
        key, better = ask() if callable(ask) else (VAL_LOSS, "min")
        self.monitor, self.mode = key, better
        if self.best_model_score is None:
            self.kth_value = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge the pass.

        Raises:
            ValueError: what the module names was not logged by the end of a pass.
        """
        fits = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not trainer.fast_dev_run
        if fits and self._asks and self.monitor not in trainer.callback_metrics:
            raise UserError(
                f"`{type(pl_module).__name__}.objective` must name what validation logs; got {self.monitor!r}.",
                f"Logged: {', '.join(trainer.callback_metrics) or 'nothing'}. Log it with self.log, or name another.",
            )
        super().on_validation_end(trainer, pl_module)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Write beside the old file, and replace it in one move."""
        if "://" in filepath:
            super()._save_checkpoint(trainer, filepath)
            return
        with written_whole(trainer, Path(filepath)) as partial:
            super()._save_checkpoint(trainer, str(partial))
        self._last_checkpoint_saved = filepath

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ask the module, before a checkpoint's state is looked up by what this one monitors."""
        self.ask(pl_module)
        super().setup(trainer, pl_module, stage)
