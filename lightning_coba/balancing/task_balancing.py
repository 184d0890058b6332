import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_coba.balancers.base import Balancer
from lightning_coba.balancing import notices
from lightning_coba.balancing.cadence import Cadence
from lightning_coba.balancing.held_out import HeldOutStream
from lightning_coba.balancing.pass_losses import MonitoredKeys, ValidationPass
from lightning_coba.balancing.publish import publish
from lightning_coba.balancing.recorder import Recorder, baseline_by_name, task_trajectory
from lightning_coba.balancing.run_length import validation_is_due
from lightning_coba.balancing.step_signals import StepSignals
from lightning_coba.balancing.task_weights import TaskWeights
from lightning_coba.log_keys import BALANCE
from lightning_coba.simplex.protocol import Simplex

#: Training batches after which weights that nobody read are reported.
BATCHES_TO_USE = 10

BalancerFactory = Callable[[int | None], Balancer]


class TaskBalancing(L.Callback):
    """Let a balancer move the loss weights of any LightningModule.

    Two lines change in the module's world: ``training_step`` returns ``self.task_weights.combine(losses)``, and this
    callback is given to the Trainer. After each validation pass (also inside an epoch), or every n optimizer steps on
    a stratified held-out mini-batch, it takes one record of the tasks' held-out losses and updates the balancer. A
    balancer that works on training steps (their losses, their gradients) gets a record of each n-th step. A record is
    taken at once; the weights change at the start of the next accumulation window. Methods that combine gradients act
    on the very step: what they change about the weights is added to the parameters' gradients before clipping.

    Hooks do this: ``setup`` attaches :class:`~lightning_coba.TaskWeights` and asks for a full sanity pass, the
    baseline; ``on_before_backward`` takes the tasks' gradients; ``on_validation_end``, ``on_train_batch_end`` or
    ``on_before_optimizer_step`` takes a record; ``on_train_batch_start`` applies it.

    Args:
        balancer: a balancer, or a function from the number of held-out draws in a pass (None with the validation
            cadence) to one.
        tasks: names in loader order. Default, the first that is there: the module's ``TaskWeights``, its
            ``task_names``, the datamodule's ``task_names``, the keys that match ``monitor`` in the sanity pass.
        every_n_steps: None = after each validation pass, or every optimizer step for a balancer on training steps;
            n >= 1 = every n optimizer steps. Held-out losses then need the module's ``task_losses(batch)`` and
            ``held_out``.
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
        parameters: for a balancer that needs gradients, the parameters that these are of: ``"last_block"`` (default
            for gradient norms), ``"all"`` trainable ones (default else), or a regular expression on their names.
        max_overhead: instead of ``every_n_steps``, the largest share of the training time that records may take, such
            as 0.03: the first steps are timed, with and without a record, and n follows from it.

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
        parameters: str | None = None,
        max_overhead: float | None = None,
    ) -> None:
        super().__init__()
        notices.check_arguments(tasks, every_n_steps, baseline, prior, min_weight, max_overhead)
        self._given_balancer = balancer
        self._given_tasks = tuple(tasks) if tasks else ()
        self.every_n_steps = every_n_steps
        self.held_out = held_out
        self.baseline = baseline
        self.attribute = attribute
        self.prior = dict(prior) if prior else None
        self.min_weight = min_weight
        self.strict_tasks = strict_tasks
        self.parameters = parameters
        self.max_overhead = max_overhead
        self._monitored = MonitoredKeys(monitor)
        self._weights = TaskWeights()
        self.reset()

    def reset(self) -> None:
        """Forget every record and the baseline: the next ``fit`` starts over."""
        self.balancer: Balancer | None = None
        self._recorder: Recorder | None = None
        self._stored: dict[str, Any] | None = None
        self._stream: HeldOutStream | None = None
        self._signals: StepSignals | None = None
        given = self._given_balancer
        # A function makes CoBa, which needs held-out losses.
        needs = given.needs if isinstance(given, Balancer) else frozenset({"losses"})
        self._cadence = Cadence(needs, self.every_n_steps, self.max_overhead)
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

        The ``[T, K]`` columns are ``loss, ratio, slope, rcs, acs, weight`` in task order, NaN where not available, and
        whatever else the balancer was shown, for :func:`~lightning_coba.replay`: ``grad_norms``, ``losses_after_step``,
        ``train_losses`` where ``loss`` is the held-out one. For a balancer on training losses, these are in ``loss``.
        """
        trajectory = self._recorder.trajectory if self._recorder else task_trajectory(len(self.tasks))
        return trajectory.columns()

    @property
    def interval(self) -> int | None:
        """Optimizer steps between two records; None = validation passes, or (``max_overhead``) not measured yet."""
        return self._cadence.interval

    @property
    def num_records(self) -> int:
        """Records so far; unlike ``history`` it asks no device for values."""
        return len(self._recorder.trajectory.steps) if self._recorder else 0

    def simplexes(self) -> list[Simplex]:
        """Return the task weights with their records, for what shows a run; empty before the tasks are known."""
        if self._recorder is None:
            return []
        name = BALANCE if self.attribute == "task_weights" else self.attribute
        recorder = self._recorder
        return [Simplex(name, recorder.tasks, recorder.trajectory, losses=self.losses_shown, interval=self.interval)]

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
        if self._cadence.reads_held_out_rows:
            notices.refuse_step_cadence(trainer, pl_module, str(self._cadence), self.held_out)
        notices.refuse_setting(trainer, pl_module, self._cadence.needs, self.label)
        weights.listening = False
        if self._measures_by_sanity_pass() and trainer.num_sanity_val_steps:
            trainer.num_sanity_val_steps = float("inf")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Settle the balancer, and take over a checkpoint's records where there are any."""
        self._batches = 0
        self._window: int | None = None
        self._due = False
        self._loss_scale: float | None = None
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
        if self._cadence.reads_held_out_rows:
            self._open_stream(trainer)
        self._settle_balancer()
        if stored is not None:
            recorder = self._begin(pl_module, None)
            recorder.load_state_dict(stored["recorder"], self.strict_tasks)
            notices.refuse_other_cadence(stored.get("cadence", "an older version"), str(self._cadence))
            if self._cadence.budget is not None:
                self._cadence.budget.interval = stored["interval"]
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
        if self._cadence.watches_steps:
            if not self.tasks:
                raise notices.unknown_names(type(self).__name__, self._monitored.monitor, trainer.callback_metrics)
            notices.refuse_optimizers(trainer.optimizers, self.label)
            self._signals = StepSignals(self.balancer, self._weights, pl_module, self.parameters)
        notices.announce_settings(
            type(self).__name__,
            trainer,
            self.balancer,
            self._cadence.by_steps,
            self.interval,
            self.prior,
            self.min_weight,
            self.num_records,
            len(self.tasks),
        )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Apply the newest weights where an accumulation window begins, and listen where its step is due."""
        self._step_before = trainer.global_step
        if self._window != trainer.global_step:
            self._window = trainer.global_step
            if self._recorder is not None:
                self._weights.assign(self._recorder.weights)
            self._due = self._cadence.begin_step(self._steps, pl_module)
            self._loss_scale = self._scale_of(trainer) if self._due and self._signals is not None else None
            if self._signals is not None:
                self._signals.begin_step(self._due)
        if self._signals is not None:
            self._signals.begin_batch(pl_module, batch)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Take the tasks' gradients while the graph is there."""
        if self._signals is not None:
            self._signals.before_backward(trainer, loss)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Complete the step's gradients; a method that combines them acts here, before they are clipped."""
        if self._signals is None or not self._due:
            return
        assert self._recorder is not None
        self._signals.before_step(trainer, pl_module, self._recorder.weights, self._stream, self.num_records)
        gradients = self._signals.gradients
        if self._recorder.balancer.acts_on == "this step" and gradients is not None and gradients.complete:
            self._record(trainer, pl_module, trainer.global_step + 1)
            gradients.add_to_grads(self._recorder.weights - self._weights.values.to(self._recorder.weights))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a record every n optimizer steps, unless that is the business of validation passes."""
        self._batches += 1
        if self._batches == BATCHES_TO_USE:
            self._warn_if_unused(pl_module)
        self._pass_is_due = not self._cadence.by_steps and validation_is_due(trainer, batch_idx)
        if self._signals is not None:
            self._signals.end_batch()
        if trainer.global_step == self._step_before:
            return
        self._steps += 1
        if self._due and not self._was_skipped(trainer):
            self._record(trainer, pl_module, trainer.global_step)
        if self._cadence.timing:
            assert self._cadence.budget is not None
            self._cadence.budget.end_step(trainer, pl_module)
            if not self._cadence.timing:
                notices.announce_interval(type(self).__name__, self._cadence.budget)

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
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if not self.tasks:
            required = not (trainer.sanity_checking or self._cadence.by_steps)
            self._learn_names(self._pass.metrics(trainer), required)
        if self._cadence.by_steps:
            return
        self._pass_is_due = False
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
        losses, present = self._pass.losses(trainer, pl_module, self.tasks)
        self._recorder.record(trainer.global_step, {"losses": losses}, present, trainer.current_epoch)
        publish(trainer, self._recorder.metrics(self._prefix))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Follow a schedule that thaws parameters."""
        if self._signals is not None:
            self._signals.begin_epoch(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse learned names that the training data never produced."""
        if self._learned_from_keys:
            notices.refuse_never_received(type(self).__name__, self.tasks, self._weights.received)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so if the run was too short to notice earlier that nobody used the weights."""
        if 0 < self._batches < BATCHES_TO_USE:
            self._warn_if_unused(pl_module)
        self._stored = None  # a finder inside the fit hands back what it found: old by the next fit

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of graphs, gradients and batches."""
        if self._signals is not None:
            self._signals.end()
            self._signals = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Do the same where the fit did not come to its end."""
        self.teardown(trainer, pl_module, "fit")

    # ------------------------------------------------------------------ checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Return dicts, lists, tensors, numbers and strings only: Lightning loads with ``weights_only=True``."""
        recorder = self._recorder.state_dict() if self._recorder else None
        return {
            "recorder": recorder,
            "steps": self._steps,
            "seed": self._seed,
            "cadence": str(self._cadence),
            "interval": self.interval,
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

    @property
    def label(self) -> str:
        """Name of the method in tables."""
        given = self._given_balancer
        return given.label if isinstance(given, Balancer) else "CoBa"

    @property
    def losses_shown(self) -> Literal["validation", "training"]:
        """What ``history["loss"]`` and ``balance.csv`` hold: losses on held-out rows, or of training steps."""
        needs = self._cadence.needs
        return "training" if self._cadence.watches_steps and "losses" not in needs else "validation"

    def _measures_by_sanity_pass(self) -> bool:
        return not self._cadence.by_steps and self.baseline == "measure" and self._recorder is None

    @staticmethod
    def _scale_of(trainer: L.Trainer) -> float | None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        return None if scaler is None else scaler.get_scale()

    def _was_skipped(self, trainer: L.Trainer) -> bool:
        """Return whether a gradient scaler found the step's gradients infinite: it made none, and shrank its scale."""
        return self._loss_scale is not None and self._scale_of(trainer) < self._loss_scale  # type: ignore[operator]

    def _record(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Take the record of an optimizer step."""
        self._due = False
        assert self._recorder is not None
        signals: dict[str, Tensor] = {}
        if self._signals is not None:
            signals, present = self._signals.observe(trainer, pl_module)
        if self._stream is not None and ("losses" in self._cadence.needs or self._signals is None):
            signals["losses"], present = self._stream.measure_draw(self.num_records, trainer, pl_module, self.tasks)
        if self._cadence.timing:
            self._recorder.rehearse(step, signals, present)
            return
        self._recorder.record(step, signals, present, trainer.current_epoch)
        log = self._cadence.is_logged(step, trainer.log_every_n_steps)
        publish(trainer, self._recorder.metrics(self._prefix), log)

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

    def _begin(self, pl_module: L.LightningModule, initial: Tensor | None) -> Recorder:
        assert self.balancer is not None
        balancer = self.balancer.for_tasks(self.tasks)
        self._recorder = Recorder(balancer, self.tasks, pl_module.device, initial, self.prior, self.min_weight)
        return self._recorder

    def _baseline(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Tensor | None:
        assert self.balancer is not None
        if isinstance(self.baseline, Mapping):
            return baseline_by_name(self.baseline, self.tasks)
        # Training losses are divided by the first of them; other methods on training steps divide by nothing.
        on_steps = self._cadence.watches_steps and self.balancer.baseline_signal != "losses"
        if self.baseline == "first_record" or on_steps:
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
