import lightning as L
import torch

from lightning_coba.balancing import notices
from lightning_coba.balancing.records import Records
from lightning_coba.balancing.task_weights import TaskWeights

#: Training batches, and as many as there are tasks, in which a task may have had no row by chance.
BATCHES_TO_SEE = 10


class SilentTasks:
    """Finds the tasks that a balancer hears nothing of: no finite held-out loss, or no training row.

    Both are looked at from the second record on, each once; with the step cadence, after as many draws as make a pass
    over the held-out rows. What was too early then is looked at when the training ends.

    Args:
        weights: The weights, which see what training gives them.
        caller: Name of the callback, for what is said.
    """

    def __init__(self, weights: TaskWeights, caller: str) -> None:
        self.weights = weights
        self.caller = caller
        self._batches = 0
        self._num_records = 0
        self._rows_are_looked_at = False
        self._losses_are_looked_at = False

    def begin_training(self, records: Records) -> None:
        """Forget what another fit has seen."""
        self.weights.seen = None
        self._batches, self._num_records, self._rows_are_looked_at = 0, len(records), False
        self._losses_are_looked_at = len(records) >= 2

    def end_batch(self) -> None:
        """Count a training batch."""
        self._batches += 1

    def look(self, trainer: L.Trainer, records: Records, num_draws: int | None, is_end: bool = False) -> None:
        """Warn where it is time to; every rank has to ask.

        Args:
            trainer: The Trainer that fits.
            records: The records, after the one that may just have been taken.
            num_draws: Records that make a pass over the held-out rows; None = records show no held-out losses.
            is_end: Whether the training ends here.
        """
        is_new, self._num_records = len(records) > self._num_records, len(records)
        if len(records) < 2 or not (is_new or is_end):
            return
        enough = is_end or len(records) >= (num_draws or 0)
        if num_draws is not None and enough and not self._losses_are_looked_at:
            self._losses_are_looked_at = True
            self._look_at_losses(records)
        batches_to_see = max(BATCHES_TO_SEE, len(self.weights.tasks))
        if (is_end or self._batches >= batches_to_see) and not self._rows_are_looked_at:
            self._rows_are_looked_at = True
            self._look_at_rows(trainer)

    def _look_at_losses(self, records: Records) -> None:
        assert records.recorder is not None
        silent = records.recorder.trajectory.columns()["loss"].isnan().all(dim=0).tolist()
        tasks = [task for task, is_silent in zip(records.tasks, silent, strict=True) if is_silent]
        if tasks:
            notices.warn_of_missing_losses(self.caller, tasks, len(records))

    def _look_at_rows(self, trainer: L.Trainer) -> None:
        tasks, seen = self.weights.tasks, self.weights.seen
        if seen is None:  # the weights are read one by one, which does not tell
            seen = torch.zeros(len(tasks), dtype=torch.bool, device=trainer.strategy.root_device)
        on_any_rank = trainer.strategy.reduce(seen.to(trainer.strategy.root_device).long(), reduce_op="max")
        counts: list[int] = on_any_rank.tolist()  # type: ignore[union-attr]
        never = [task for task, count in zip(tasks, counts, strict=True) if not count]
        if never and any(counts):
            notices.warn_of_untrained_tasks(self.caller, never, self._batches)
