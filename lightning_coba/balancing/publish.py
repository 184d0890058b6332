"""Log many scalars at once: ``module.log`` takes a third of a millisecond a key, and 20 tasks have many keys."""

import lightning as L
import torch
from torch import Tensor


def logging_step(trainer: L.Trainer) -> int:
    """Return the step label under which Lightning itself logs now, so that what belongs together stays in one row."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def publish(trainer: L.Trainer, values: dict[str, Tensor], log: bool = True) -> None:
    """Log scalars during a fit for callbacks, bars and loggers, also in hooks where ``module.log`` raises.

    Args:
        trainer: that fits.
        values: key -> scalar tensor, all on one device; alike on all ranks. They cross to the host in one transfer.
        log: whether loggers get them too, which waits for the device.
    """
    trainer.callback_metrics.update(values)
    if not trainer.loggers or not log:
        return
    numbers = dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=logging_step(trainer))
