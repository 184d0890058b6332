import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn


class WholeWindows(L.Callback):
    """Validate only where an accumulation window ends: checkpoints of a pass inside one lose its gradients."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Round the validation interval, in batches, up to a multiple of the accumulation."""
        interval, window = trainer.val_check_batch, trainer.accumulate_grad_batches
        if trainer.check_val_every_n_epoch is None and trainer.num_training_batches % window:
            rank_zero_warn(
                f"An epoch of {trainer.num_training_batches} batches ends inside an accumulation window of {window}, "
                "and validation counts batches across epochs: some passes fall inside a window, where no resumable "
                "checkpoint is written. Set trainer.check_val_every_n_epoch=1."
            )
        if not isinstance(interval, int) or interval % window == 0:
            return
        rounded = -(-interval // window) * window
        if trainer.check_val_every_n_epoch is not None:
            # Lightning counts within an epoch then, whose last batch ends a window whatever its length.
            rounded = int(min(rounded, trainer.num_training_batches))
        if rounded == interval:
            return
        trainer.val_check_batch = rounded
        rank_zero_info(
            f"Validation every {trainer.val_check_batch} batches instead of {interval}: at the end of an accumulation "
            f"window of {window}."
        )
