"""Stop a fit on a signal, at a step from which it can resume bit for bit."""

from functools import partial

import lightning as L

from lightning_coba.callbacks import LastCheckpoint
from lightning_coba.cli.stopping import has_heard, let_wait, listen, stopped
from lightning_coba.lightning_internals import after_each_batch, is_accumulating


class StopBetweenSteps(L.Callback):
    """End a fit that was told to stop at its next optimizer step, with a checkpoint of that step.

    Where a validation pass is due, it is made first, and `LastCheckpoint` writes after it: a checkpoint before it would
    lose it. All ranks stop at the same step, whichever of them heard the signal.
    """

    def __init__(self) -> None:
        self._step = self._validated = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen in a process that was spawned too."""
        listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From now on a signal waits for the end of a step."""
        self._step = trainer.global_step
        after_each_batch(trainer, partial(self._end_batch, trainer))
        let_wait(True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the step."""
        self._validated = trainer.global_step

    def _end_batch(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        if step == self._step or is_accumulating(trainer):
            return
        self._step = step
        if not _all_stop(trainer):
            return
        if self._validated != step:
            # Lightning resumes at an epoch's end, or the run's, only from a checkpoint that a pass wrote.
            if trainer.is_last_batch or step == trainer.max_steps:
                return
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, LastCheckpoint):
                    callback.save(trainer)
        raise stopped()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave where the signal came in the last steps."""
        let_wait(False)
        if _all_stop(trainer):
            raise stopped()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Nobody waits for a step any more."""
        let_wait(False)


def _all_stop(trainer: L.Trainer) -> bool:
    return bool(trainer.strategy.reduce_boolean_decision(has_heard(), all=False))
