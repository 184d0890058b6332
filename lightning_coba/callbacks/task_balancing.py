import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_coba.balancers.base import Balancer
from lightning_coba.callbacks import notices
from lightning_coba.callbacks.held_out import HeldOutStream
from lightning_coba.callbacks.pass_losses import MonitoredKeys, ValidationPass
from lightning_coba.callbacks.recorder import Recorder, baseline_by_name
from lightning_coba.callbacks.run_length import validation_is_due
from lightning_coba.callbacks.trajectories import Trajectory
from lightning_coba.log_keys import BALANCE
from lightning_coba.modules.task_weights import TaskWeights
from lightning_coba.publish import publish

#: Training batches after which weights that nobody read are reported.
BATCHES_TO_USE = 10

BalancerFactory = Callable[[int | None], Balancer]


class TaskBalancing(L.Callback):
    """Let a balancer move the loss weights of any LightningModule.

    Two lines change in the module's world: ``training_step`` returns ``self.task_weights.combine(losses)``, and this
    callback is given to the Trainer. After each validation pass (also inside an epoch), or every n optimizer steps on
    a stratified held-out mini-batch, it takes one record of the tasks' held-out losses and updates the balancer. A
    record is taken at once; the weights change at the start of the next accumulation window.

    Hooks do this: ``setup`` attaches :class:`~lightning_coba.TaskWeights` and asks for a full sanity pass, the
    baseline; ``on_validation_end`` or ``on_train_batch_end`` takes a record; ``on_train_batch_start`` applies it.

    Args:
        balancer: a balancer, or a function from the number of held-out draws in a pass (None with the validation
            cadence) to one.
        tasks: names in loader order. Default, the first that is there: the module's ``TaskWeights``, its
            ``task_names``, the datamodule's ``task_names``, the keys that match ``monitor`` in the sanity pass.
        every_n_steps: None = after each validation pass; n >= 1 = every n optimizer steps, which needs the module's
            ``task_losses(batch)`` and ``held_out``.
        held_out: step cadence only: task -> DataLoader over a map-style dataset. Default:
            ``trainer.datamodule.held_out_dataloaders()``.
        baseline: V(0): ``"measure"`` (a full held-out pass before training), ``"first_record"``, or task -> loss (a
            task left out: its first record).
        monitor: key pattern under which ``validation_step`` logs task losses; not needed where it returns
            ``TaskLosses`` or a dict of task means.
        attribute: name of the module's :class:`TaskWeights`; two balancers in one Trainer need two.
        prior: task -> importance > 0 that multiplies the balancer's weights; default 1 each.
        min_weight: floor m in [0, 1/K): weights become ``(1 - K m) w + m``.
        strict_tasks: on resume, refuse a checkpoint that lacks tasks; False admits added ones (uniform share, own
            baseline and warm-up).

    Raises:
        ValueError: if an argument is outside its domain or does not fit the module; before training starts.

    Example:
        >>> from lightning_coba.balancers import Uniform
        >>> trainer = L.Trainer(callbacks=[TaskBalancing(Uniform())], logger=False, enable_checkpointing=False)

    **Differs from** the paper: record t acts from the next optimizer step on, since Lightning validates after a step.
    Resume is exact at optimizer-step boundaries; Lightning drops the partial gradients of an accumulation window.
    """

    def __init__(
        self,
        balancer: Balancer | BalancerFactory,
        tasks: Sequence[str] | None = None,
        every_n_steps: int | None = None,
        held_out: Mapping[str, DataLoader] | None = None,
        baseline: Literal["measure", "first_record"] | Mapping[str, float] = "measure",
        monitor: str = "val_loss/{task}",
        attribute: str = "task_weights",
        prior: Mapping[str, float] | None = None,
        min_weight: float = 0.0,
        strict_tasks: bool = True,
    ) -> None:
        super().__init__()
        notices.check_arguments(tasks, every_n_steps, baseline, prior, min_weight)
        self._given_balancer = balancer
        self._given_tasks = tuple(tasks) if tasks else ()
        self.every_n_steps = every_n_steps
        self.held_out = held_out
        self.baseline = baseline
        self.attribute = attribute
        self.prior = dict(prior) if prior else None
        self.min_weight = min_weight
        self.strict_tasks = strict_tasks
        self._monitored = MonitoredKeys(monitor)
        self._weights = TaskWeights()
        self.reset()

    def reset(self) -> None:
        """Forget every record and the baseline: the next ``fit`` starts over."""
        self.balancer: Balancer | None = None
        self._recorder: Recorder | None = None
        self._stored: dict[str, Any] | None = None
        self._stream: HeldOutStream | None = None
        self._steps = 0
        self._seed: int | None = None
        self._pass_is_due = False

    # ------------------------------------------------------------------ what a user reads

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names in the order of every ``[K]`` tensor; empty until they are known."""
        return self._weights.tasks

    @property
    def history(self) -> dict[str, Any]:
        """Records so far: ``record`` and ``step`` (lists), ``divergence_factor`` ``[T]``, and ``[T, K]`` tensors.

        The ``[T, K]`` columns are ``loss, ratio, slope, rcs, acs, weight`` in task order, NaN where not available.
        """
        trajectory = self._recorder.trajectory if self._recorder else Trajectory(len(self.tasks))
        return trajectory.columns()

    @property
    def num_records(self) -> int:
        """Records so far; unlike ``history`` it asks no device for values."""
        return len(self._recorder.trajectory.steps) if self._recorder else 0

    def explain(self) -> str:
        """Say in a small table why each task has the weight that it has."""
        return self._recorder.explain() if self._recorder else "No fit yet: every task has the same weight."

    @property
    def state_key(self) -> str:
        """Key of this callback in a checkpoint; holds ``attribute``, so that two balancers coexist."""
        return self._generate_state_key(attribute=self.attribute)

    # ------------------------------------------------------------------ hooks, in the order in which they fire

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Attach the weights, learn the task names, and ask for a full sanity pass where it is the baseline."""
        weights = getattr(pl_module, self.attribute, None)
        if weights is None:
            weights = TaskWeights()
            setattr(pl_module, self.attribute, weights)
        notices.refuse_attribute(self.attribute, weights, pl_module)
        self._weights = weights
        datamodule = getattr(trainer, "datamodule", None)
        names = self._given_tasks or weights.tasks or getattr(pl_module, "task_names", None)
        names = names or getattr(datamodule, "task_names", None) or list(self.held_out or ())
        if names:
            weights.bind(names)
        if stage != "fit":
            return
        rivals = (c for c in trainer.callbacks if isinstance(c, TaskBalancing))
        notices.refuse_rivals(sum(c.attribute == self.attribute for c in rivals), self.attribute)
        if self.every_n_steps is not None:
            notices.refuse_step_cadence(trainer, pl_module, self.every_n_steps, self.held_out)
        if self._measures_by_sanity_pass() and trainer.num_sanity_val_steps:
            trainer.num_sanity_val_steps = float("inf")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Settle the balancer, and take over a checkpoint's records where there are any."""
        self._batches = 0
        self._window: int | None = None
        self._step_before = trainer.global_step
        # Steps of different fits are never compared: a second Trainer counts from 0 again.
        self._record_step: int | None = None
        self._learned_from_keys = False
        self._measured: Tensor | None = None
        stored, self._stored = self._stored, None
        if stored is not None:
            self._steps, self._seed = stored["steps"], stored["seed"]
            if not self.tasks:
                self._weights.bind(stored["recorder"]["tasks"])
        elif self._recorder is not None and not self.tasks:
            self._weights.bind(self._recorder.tasks)
        if self.every_n_steps is not None:
            self._open_stream(trainer)
        self._settle_balancer()
        if stored is not None:
            recorder = self._begin(pl_module, None)
            recorder.load_state_dict(stored["recorder"], self.strict_tasks)
            notices.refuse_other_cadence(stored["every_n_steps"], self.every_n_steps)
            # The resumed Trainer goes on counting, so this is the same fit.
            self._record_step = recorder.trajectory.steps[-1] if recorder.trajectory.steps else None
            if stored["pass_is_due"]:
                notices.warn_of_lost_pass(type(self).__name__)
        elif self._recorder is not None:
            notices.refuse_other_tasks(self._recorder.tasks, self.tasks)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the baseline and say what was settled."""
        self._weights.used = False
        self._weights.received.clear()
        if self._recorder is None and self.tasks:
            self._begin(pl_module, self._baseline(trainer, pl_module))
        if self._recorder is not None:
            self._weights.weighs = self._recorder.balancer.weighs
        assert self.balancer is not None
        notices.announce_settings(
            type(self).__name__,
            trainer,
            self.balancer,
            self.every_n_steps,
            self.prior,
            self.min_weight,
            self.num_records,
        )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Apply the newest weights where an accumulation window begins."""
        self._step_before = trainer.global_step
        if self._window != trainer.global_step:
            self._window = trainer.global_step
            if self._recorder is not None:
                self._weights.assign(self._recorder.weights)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step cadence: take a record every n optimizer steps."""
        self._batches += 1
        if self._batches == BATCHES_TO_USE:
            self._warn_if_unused(pl_module)
        self._pass_is_due = self.every_n_steps is None and validation_is_due(trainer, batch_idx)
        if trainer.global_step == self._step_before:
            return
        self._steps += 1
        if self.every_n_steps is None or self._steps % self.every_n_steps:
            return
        assert self._stream is not None
        assert self._recorder is not None
        draw = self._stream.draw(self._steps // self.every_n_steps - 1)
        losses, present = self._stream.measure(draw, trainer, pl_module, self.tasks)
        self._recorder.record(trainer.global_step, losses, present)
        publish(trainer, self._recorder.metrics(self._prefix))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to listen to a pass."""
        self._pass = ValidationPass(trainer, pl_module, self.tasks, self._monitored)
        self._seen = self._weights.used, set(self._weights.received)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add what ``validation_step`` returned, where it returned task losses."""
        self._pass.returned.add(outputs)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation cadence: take the baseline (sanity pass) or a record."""
        # Only what training_step reads counts as used.
        self._weights.used, self._weights.received = self._seen
        if trainer.state.fn != TrainerFn.FITTING or self.every_n_steps is not None:
            return
        self._pass_is_due = False
        if not self.tasks:
            self._learn_names(self._pass.metrics(trainer), required=not trainer.sanity_checking)
        visible = self._pass.visible(trainer, self.tasks)
        if trainer.sanity_checking:
            if visible:
                losses, present = self._pass.losses(trainer, pl_module, self.tasks)
                self._measured = torch.where(present, losses, torch.nan)
                self._record_step = trainer.global_step  # the baseline's parameters make no record
            return
        if self._record_step == trainer.global_step:
            return  # the same parameters as at the last record
        if self._recorder is None:
            self._begin(pl_module, self._baseline(trainer, pl_module))
        assert self._recorder is not None
        if not visible and not self._recorder.balancer.needs:
            return  # nothing to see, and nothing that has to be seen
        self._record_step = trainer.global_step
        self._recorder.record(trainer.global_step, *self._pass.losses(trainer, pl_module, self.tasks))
        publish(trainer, self._recorder.metrics(self._prefix))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse learned names that the training data never produced."""
        if self._learned_from_keys:
            notices.refuse_never_received(type(self).__name__, self.tasks, self._weights.received)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so if the run was too short to notice earlier that nobody used the weights."""
        if 0 < self._batches < BATCHES_TO_USE:
            self._warn_if_unused(pl_module)
        self._stored = None  # a finder inside the fit hands back what it found: old by the next fit

    # ------------------------------------------------------------------ checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Return dicts, lists, tensors, numbers and strings only: Lightning loads with ``weights_only=True``."""
        recorder = self._recorder.state_dict() if self._recorder else None
        return {
            "recorder": recorder,
            "steps": self._steps,
            "seed": self._seed,
            "every_n_steps": self.every_n_steps,
            "pass_is_due": self._pass_is_due,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the fit starts; one without records (a tuner's, say) restores nothing."""
        if state_dict.get("recorder") is not None:
            self._stored = state_dict

    # ------------------------------------------------------------------ helpers

    @property
    def _prefix(self) -> str:
        return BALANCE if self.attribute == "task_weights" else f"{BALANCE}/{self.attribute}"

    def _measures_by_sanity_pass(self) -> bool:
        return self.every_n_steps is None and self.baseline == "measure" and self._recorder is None

    def _open_stream(self, trainer: L.Trainer) -> None:
        loaders = self.held_out if self.held_out is not None else trainer.datamodule.held_out_dataloaders()
        if not self.tasks:
            self._weights.bind(list(loaders))
        if self._seed is None:
            self._seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        self._stream = HeldOutStream(loaders, self.tasks, self._seed)

    def _settle_balancer(self) -> None:
        given = self._given_balancer
        draws = self._stream.num_draws if self._stream else None
        self.balancer = given if isinstance(given, Balancer) else given(draws)
        notices.refuse_signals(self.balancer)

    def _begin(self, pl_module: L.LightningModule, initial: Tensor | None) -> Recorder:
        assert self.balancer is not None
        balancer = self.balancer.for_tasks(self.tasks)
        self._recorder = Recorder(balancer, self.tasks, pl_module.device, initial, self.prior, self.min_weight)
        return self._recorder

    def _baseline(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Tensor | None:
        assert self.balancer is not None
        if isinstance(self.baseline, Mapping):
            return baseline_by_name(self.baseline, self.tasks)
        if self.baseline == "first_record":
            return None
        if self._stream is not None and not trainer.fast_dev_run:
            losses, present = self._stream.measure(self._stream.everything(), trainer, pl_module, self.tasks)
            return torch.where(present, losses, torch.nan)
        if self._measured is None:
            notices.announce_first_record(type(self).__name__)
        return self._measured

    def _learn_names(self, metrics: Mapping[str, Tensor], required: bool) -> None:
        names = self._monitored.learn(metrics)
        if names:
            self._learned_from_keys = True
            self._weights.bind(names)
            notices.announce_names(type(self).__name__, names)
        elif required:
            raise notices.unknown_names(type(self).__name__, self._monitored.monitor, metrics)

    def _warn_if_unused(self, pl_module: L.LightningModule) -> None:
        if not self._weights.used:
            notices.warn_of_unused_weights(type(self).__name__, pl_module, self.attribute)
