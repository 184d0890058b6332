"""When Lightning validates, and how many records that makes: one rule, asked after a batch or for a whole run."""

import math
from typing import Any, NamedTuple

import lightning as L
import torch

from lightning_coba.lightning_internals import batch_progress

#: Batches of a run that are looked at; a longer run is taken to go on as it began.
MOST_BATCHES = 2**20


class ValidationRule(NamedTuple):
    """Lightning's rule for passes that are counted in batches.

    Attributes:
        batches: Training batches per epoch; ``inf`` where it is not known.
        interval: Batches between two passes; ``inf`` = at the end of an epoch.
        every_n_epochs: Epochs between two that have passes; None = the interval counts on from epoch to epoch.
        accumulate: Batches per optimizer step; an epoch ends with a step in any case.
    """

    batches: float
    interval: float
    every_n_epochs: int | None = 1
    accumulate: int = 1

    def is_due(self, epoch: Any, batch: Any, total: Any, is_last: Any) -> Any:
        """Return whether a pass follows a batch; takes numbers or tensors.

        Args:
            epoch: Epoch, from 0.
            batch: Batch in the epoch, from 0.
            total: Batch in the run, from 0.
            is_last: Whether the batch is the last one of its epoch.
        """
        if self.every_n_epochs is None:
            return (total + 1) % self.interval == 0
        due = is_last if self.interval == math.inf else (batch + 1) % self.interval == 0
        return due & ((epoch + 1) % self.every_n_epochs == 0)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(self.batches / self.accumulate)

    def num_records(self, last_step: int, first_step: int = 0) -> int:
        """Return how many optimizer steps after ``first_step``, up to ``last_step``, are seen by a pass.

        Several passes at one optimizer step are one record. Steps are counted as if every epoch were a whole one.
        """
        per_epoch, batches = self.steps_per_epoch, int(self.batches)
        begin, end = (
            epoch * batches + min(steps * self.accumulate, batches)
            for epoch, steps in (divmod(step, per_epoch) for step in (first_step, last_step))
        )
        looked_at = min(end - begin, MOST_BATCHES)
        total = torch.arange(begin, begin + looked_at)
        epoch, batch = total // batches, total % batches
        is_last = batch == batches - 1
        in_epoch = torch.where(is_last, per_epoch, (batch + 1) // self.accumulate)
        steps = (epoch * per_epoch + in_epoch)[self.is_due(epoch, batch, total, is_last)].unique()
        found = int((steps > first_step).sum())
        return found if looked_at == end - begin else found * (end - begin) // looked_at


def expected_records(trainer: L.Trainer, every_n_steps: int | None) -> float:
    """Estimate how many records a fit will take, from what the Trainer knows when training starts.

    Args:
        trainer: The Trainer, with its loaders set up.
        every_n_steps: The step cadence, or None for one record per validation pass.

    Returns:
        Number of records still to come; ``inf`` where the run has no known end.
    """
    rule, last = _rule(trainer), trainer.global_step + expected_steps(trainer)
    if every_n_steps is not None:
        return expected_steps(trainer) // every_n_steps if math.isfinite(last) else math.inf
    if not trainer.enable_validation or not rule.batches:
        return 0
    if not rule.interval or not math.isfinite(last) or not math.isfinite(rule.batches):
        return math.inf
    return rule.num_records(int(last), trainer.global_step) if last > trainer.global_step else 0


def expected_steps(trainer: L.Trainer) -> float:
    """Return how many optimizer steps a fit still takes; ``inf`` where the run has no known end."""
    rule = _rule(trainer)
    last = math.inf if trainer.max_steps == -1 else trainer.max_steps
    if math.isfinite(rule.batches) and trainer.max_epochs not in (None, -1):
        begun = min(max(trainer.global_step - trainer.current_epoch * rule.steps_per_epoch, 0), rule.steps_per_epoch)
        epochs = trainer.max_epochs - trainer.current_epoch
        last = min(last, trainer.global_step + epochs * rule.steps_per_epoch - begun)
    return max(last - trainer.global_step, 0)


def validation_is_due(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether Lightning validates after training batch ``batch_idx``, counted in batches.

    Passes that are due for another reason (a time interval, an early stop) are not foreseen.
    """
    rule = _rule(trainer)
    if not trainer.enable_validation or not rule.interval:
        return False
    total = batch_progress(trainer).total.ready - 1
    return bool(rule.is_due(trainer.current_epoch, batch_idx, total, trainer.is_last_batch))


def _rule(trainer: L.Trainer) -> ValidationRule:
    return ValidationRule(
        trainer.num_training_batches,
        trainer.val_check_batch or 0,  # None = by time
        trainer.check_val_every_n_epoch,
        trainer.accumulate_grad_batches,
    )
