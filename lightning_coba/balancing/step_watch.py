from typing import Any

import lightning as L
from torch import Tensor

from lightning_coba.balancers.base import Balancer
from lightning_coba.balancing import notices
from lightning_coba.balancing.held_out import HeldOutStream
from lightning_coba.balancing.recorder import Shown
from lightning_coba.balancing.records import Records
from lightning_coba.balancing.step_signals import StepSignals
from lightning_coba.balancing.task_weights import TaskWeights


class StepWatch:
    """Follows the optimizer steps of one fit: when one begins, whether its record is due, and what it shows.

    With the validation cadence no record is due here; what the steps show is added up for the pass that comes.

    Args:
        records: Where records go.
        weights: The weights that act.
        stream: Held-out rows; None where they are not read between steps.

    Attributes:
        signals: What listens to the steps; None for a balancer that does not look at them.
    """

    def __init__(self, records: Records, weights: TaskWeights, stream: HeldOutStream | None) -> None:
        self.records = records
        self.weights = weights
        self.stream = stream
        self.signals: StepSignals | None = None
        self._cadence = records.cadence
        self._step_before = 0
        self._window: int | None = None
        self._due = False
        self._loss_scale: float | None = None

    def watch(self, balancer: Balancer, module: L.LightningModule, parameters: str | None) -> None:
        """Look at the steps, for a balancer that works on them."""
        self.signals = StepSignals(balancer, self.weights, module, parameters)

    @property
    def takes_gradients(self) -> bool:
        """Whether each task's gradient is taken before the backward pass."""
        return self.signals is not None and self.signals.gradients is not None

    def begin_epoch(self, module: L.LightningModule) -> None:
        """Look again which parameters are trained: a finetuning schedule may have thawed some."""
        if self.signals is not None:
            self.signals.begin_epoch(module)

    def begin_batch(self, trainer: L.Trainer, module: L.LightningModule, batch: Any) -> None:
        """Apply the newest weights where an accumulation window begins, and listen where its step is asked for."""
        self._step_before = trainer.global_step
        if self._window != trainer.global_step:
            self._window = trainer.global_step
            self._begin_window(trainer, module)
        if self.signals is not None:
            self.signals.begin_batch(module, batch)

    def _begin_window(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.records.recorder is not None:
            self.weights.assign(self.records.recorder.weights)
        self._due = self._cadence.begin_step(self.records.steps, module)
        if self.signals is not None:
            listens = self._due or self._cadence.adds_up_steps
            self._loss_scale = _scale_of(trainer) if listens else None
            self.signals.begin_step(listens)

    def before_backward(self, trainer: L.Trainer, loss: Tensor) -> None:
        """Take the tasks' gradients while the graph is there."""
        if self.signals is not None:
            self.signals.before_backward(trainer, loss)

    def before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Complete the step's gradients; a method that combines them acts here, before they are clipped."""
        if self.signals is None or not self._due:
            return
        recorder = self.records.recorder
        assert recorder is not None
        self.signals.before_step(trainer, module, recorder.weights, self.stream, len(self.records))
        if self.signals.combines_now:
            self._record(trainer, module, trainer.global_step + 1)
            self.signals.combine(recorder.weights - self.weights.values.to(recorder.weights))

    def end_batch(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Where an optimizer step was made, count it and take its record or what it adds to one."""
        if self.signals is not None:
            self.signals.end_batch()
        if trainer.global_step == self._step_before:
            return
        self.records.steps += 1
        skipped = self._loss_scale is not None and _scale_of(trainer) < self._loss_scale  # type: ignore[operator]
        if not skipped and self._due:
            self._record(trainer, module, trainer.global_step)
        elif not skipped and self.signals is not None and self._cadence.adds_up_steps:
            self.signals.refuse_silence()
            self.records.add_step(self.signals.totals(trainer))
        self._end_timed_step(trainer, module)

    def _record(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        self._due = False
        signals: dict[str, Tensor] = {}
        if self.signals is not None:
            signals, present = self.signals.observe(trainer, module)
        if self.stream is not None and ("losses" in self._cadence.needs or self.signals is None):
            measured = self.stream.measure_draw(len(self.records), trainer, module)
            signals, present = signals | measured.signals(), measured.present
        self.records.take(trainer, Shown(step, signals, present))

    def _end_timed_step(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._cadence.timing:
            assert self._cadence.budget is not None
            self._cadence.budget.end_step(trainer, module)
            if not self._cadence.timing:
                notices.announce_interval(self.records.caller, self._cadence.budget)

    def end(self) -> None:
        """Let go of graphs, gradients and batches."""
        if self.signals is not None:
            self.signals.end()
            self.signals = None


def _scale_of(trainer: L.Trainer) -> float | None:
    """Return the factor of a gradient scaler: one that finds infinite gradients makes no step, and shrinks it."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else scaler.get_scale()
