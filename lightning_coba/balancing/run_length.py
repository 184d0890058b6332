import math

import lightning as L


def expected_records(trainer: L.Trainer, every_n_steps: int | None) -> float:
    """Estimate how many records a fit will take, from what the Trainer knows when training starts.

    Args:
        trainer: with its loaders set up.
        every_n_steps: the step cadence, or None for one record a validation pass.

    Returns:
        Number of records still to come; ``inf`` where the run has no known end.
    """
    batches = trainer.num_training_batches
    steps = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else math.inf
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs - trainer.current_epoch
    total_steps = steps * epochs if epochs and steps else 0
    if trainer.max_steps > -1:
        total_steps = min(total_steps, trainer.max_steps - trainer.global_step)
    if every_n_steps is not None:
        return total_steps // every_n_steps if math.isfinite(total_steps) else math.inf
    if not trainer.enable_validation or not trainer.val_check_batch:
        return 0 if not trainer.enable_validation else math.inf
    if not math.isfinite(total_steps):
        return math.inf
    # Several passes at one optimizer step are one record.
    interval = max(trainer.val_check_batch / trainer.accumulate_grad_batches, 1)
    if trainer.check_val_every_n_epoch is None:
        return int(total_steps // interval)
    interval = min(interval, steps)
    per_epoch = int(steps // interval)
    whole, rest = divmod(total_steps, steps)
    return int(whole // trainer.check_val_every_n_epoch * per_epoch + rest // interval)


def validation_is_due(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether Lightning validates after training batch ``batch_idx``, counted in batches.

    Passes that are due for another reason (a time interval, an early stop) are not foreseen.
    """
    interval, every_n_epochs = trainer.val_check_batch, trainer.check_val_every_n_epoch
    if not trainer.enable_validation or not interval:
        return False
    if every_n_epochs is None:
        return (trainer.fit_loop.total_batch_idx + 1) % interval == 0
    if (trainer.current_epoch + 1) % every_n_epochs:
        return False
    return trainer.is_last_batch if interval == math.inf else (batch_idx + 1) % interval == 0
