import lightning as L
from lightning.pytorch.utilities import rank_zero_info


class WholeWindows(L.Callback):
    """Validate only where an accumulation window ends: checkpoints of a pass inside one lose its gradients."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Round the validation interval, in batches, up to a multiple of the accumulation."""
        interval, window = trainer.val_check_batch, trainer.accumulate_grad_batches
        if (
            not isinstance(interval, int)
            or interval % window == 0
            or interval >= trainer.num_training_batches
        ):
            return
        trainer.val_check_batch = -(-interval // window) * window
        rank_zero_info(
            f"Validation every {trainer.val_check_batch} batches instead of {interval}: at the end of an accumulation "
            f"window of {window}."
        )
