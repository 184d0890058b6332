"""Log many scalars at once: ``module.log`` takes a third of a millisecond a key, and 20 tasks have many keys."""

from collections.abc import Collection

import lightning as L
import torch
from torch import Tensor

from lightning_coba.lightning_internals import logging_step


def is_log_step(trainer: L.Trainer, step: int, last: int = 1) -> bool:
    """Return whether the Trainer logs at an optimizer step, counted from 1, or at another of the ``last`` ones.

    ``log_every_n_steps=0`` is never, as in Lightning.
    """
    return trainer.log_every_n_steps > 0 and step % trainer.log_every_n_steps < last


def publish(trainer: L.Trainer, values: dict[str, Tensor], log: bool = True, on_bar: Collection[str] = ()) -> None:
    """Log scalars during a fit for callbacks, bars and loggers, also in hooks where ``module.log`` raises.

    Afterwards ``trainer.callback_metrics``, ``logged_metrics`` and ``progress_bar_metrics`` hold what ``module.log``
    would have put there.

    Args:
        trainer: The Trainer that fits.
        values: Key -> scalar tensor, all on one device; alike on all ranks. They cross to the host in one transfer.
        log: Whether loggers get them too, which waits for the device.
        on_bar: Keys that progress bars show, which waits for the device as well.
    """
    # Lightning gives out its own dicts.
    trainer.callback_metrics.update(values)
    trainer.logged_metrics.update(values)
    log = log and bool(trainer.loggers)
    if not log and not on_bar:
        return
    shown = values if log else {key: values[key] for key in on_bar}
    numbers = dict(zip(shown, torch.stack(list(shown.values())).tolist(), strict=True))
    trainer.progress_bar_metrics.update({key: numbers[key] for key in on_bar})
    if log:
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=logging_step(trainer))
