from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from torch import Tensor

from lightning_coba.balancing import notices
from lightning_coba.balancing.baseline import Baseline
from lightning_coba.balancing.loss_sums import MeasuredLosses
from lightning_coba.balancing.pass_losses import MonitoredKeys, ReturnedLosses, measured_keys
from lightning_coba.balancing.recorder import Shown
from lightning_coba.balancing.records import Records
from lightning_coba.balancing.task_weights import TaskWeights
from lightning_coba.balancing.unfound_losses import is_logged_elsewhere, other_pattern, unfound_tasks, unknown_names
from lightning_coba.lightning_internals import sanity_metrics


class PassWatch:
    """Follows the validation passes of one fit: learns the tasks' names from them, and takes baseline and records.

    Args:
        records: Where records go.
        weights: The weights whose names may have to be learned.
        baseline: Where a sanity pass is kept.
        monitored: The key pattern of logged losses.

    Attributes:
        learned: Whether the names come from logged keys.
    """

    def __init__(self, records: Records, weights: TaskWeights, baseline: Baseline, monitored: MonitoredKeys) -> None:
        self.records = records
        self.weights = weights
        self.baseline = baseline
        self.monitored = monitored
        self.learned = False
        self._returned: ReturnedLosses | None = None
        self._stale: dict[str, Tensor] = {}

    def begin(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Begin to listen to a pass."""
        self._returned = ReturnedLosses(self.weights.tasks, module.device)
        self._stale = dict(trainer.callback_metrics)

    def add(self, outputs: Any) -> None:
        """Add what ``validation_step`` returned, where it returned task losses."""
        if self._returned is not None:
            self._returned.add(outputs)

    def end(self, trainer: L.Trainer, module: L.LightningModule, begin_records: Callable[[], None]) -> None:
        """Learn the names where they are not known; with the validation cadence take the baseline or a record.

        Args:
            trainer: The Trainer that fits.
            module: The module that is validated.
            begin_records: Begins the records where this pass is the first to bring one.
        """
        records = self.records
        if not self.weights.tasks:
            self._learn_names(trainer)
        if records.cadence.by_steps:
            return
        records.pass_is_due = False
        visible = self._is_visible(trainer)
        if trainer.sanity_checking:
            if visible:
                self.baseline.keep(self._measured(trainer, module))
                records.last_step = trainer.global_step  # the baseline's parameters make no record
            elif records.cadence.needs and self.weights.tasks:
                self._refuse_unfound(trainer, only_if_elsewhere=True)
            return
        if records.last_step == trainer.global_step:
            return  # the same parameters as at the last record
        begin_records()
        if not visible and not records.cadence.needs:
            return  # nothing to see, and nothing that has to be seen
        if not visible:
            self._refuse_unfound(trainer)
        measured = self._measured(trainer, module)
        signals = measured.signals()
        if records.cadence.adds_up_steps:
            signals["train_losses"] = records.train_losses()
        records.take(trainer, Shown(trainer.global_step, signals, measured.present))

    def _learn_names(self, trainer: L.Trainer) -> None:
        metrics = _logged(trainer)
        names = self.monitored.learn(metrics)
        if names:
            self.learned = True
            self.weights.bind(names)
            notices.announce_names(self.records.caller, names, self.monitored.summaries(metrics))
            return
        has_to_know = not trainer.sanity_checking and not self.records.cadence.by_steps
        if has_to_know or other_pattern(self.monitored, metrics):
            raise unknown_names(self.records.caller, self.monitored, metrics)

    def _refuse_unfound(self, trainer: L.Trainer, only_if_elsewhere: bool = False) -> None:
        tasks, metrics = self.weights.tasks, _logged(trainer)
        if not only_if_elsewhere or is_logged_elsewhere(self.monitored, tasks, metrics):
            raise unfound_tasks(self.records.caller, self.monitored, tasks, metrics)

    def _is_visible(self, trainer: L.Trainer) -> bool:
        """Return whether the module showed any task's loss; every rank has to ask."""
        assert self._returned is not None
        # A rank without a batch of its own joins the others' reduction with zeros.
        self._returned.fed = trainer.strategy.reduce_boolean_decision(self._returned.fed, all=False)
        tasks = self.weights.tasks
        return self._returned.fed or bool(tasks and self.monitored.find(_logged(trainer), tasks))

    def _measured(self, trainer: L.Trainer, module: L.LightningModule) -> MeasuredLosses:
        """Return the pass's losses, whichever way the module gives them, the same on all ranks."""
        assert self._returned is not None
        if self._returned.fed:
            return self._returned.measured(trainer.strategy)
        return measured_keys(self.monitored, _logged(trainer), self._stale, self.weights.tasks, trainer, module)


def _logged(trainer: L.Trainer) -> Mapping[str, Tensor]:
    """Return what is logged by the end of the pass."""
    return sanity_metrics(trainer) if trainer.sanity_checking else trainer.callback_metrics
