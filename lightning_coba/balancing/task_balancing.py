from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_coba.balancers.base import Balancer
from lightning_coba.balancing import notices
from lightning_coba.balancing.baseline import Baseline
from lightning_coba.balancing.cadence import Cadence
from lightning_coba.balancing.factory import BalancerFactory, made
from lightning_coba.balancing.held_out import HeldOutStream, held_out_loaders
from lightning_coba.balancing.pass_losses import MonitoredKeys
from lightning_coba.balancing.pass_watch import PassWatch
from lightning_coba.balancing.recorder import task_trajectory
from lightning_coba.balancing.records import Records
from lightning_coba.balancing.run_length import validation_is_due
from lightning_coba.balancing.silent_tasks import SilentTasks
from lightning_coba.balancing.step_watch import StepWatch
from lightning_coba.balancing.task_names import attached_weights, bind_known_names
from lightning_coba.balancing.task_weights import TaskWeights
from lightning_coba.balancing.unfound_losses import unknown_names
from lightning_coba.balancing.usage import Usage
from lightning_coba.lightning_internals import graph_kept_after_backward, hand_back_callbacks
from lightning_coba.log_keys import BALANCE
from lightning_coba.simplex.protocol import Simplex

hand_back_callbacks()


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
    ``on_before_optimizer_step`` takes a record; ``on_train_batch_start`` applies it. The hooks hand over to two
    watches, of passes and of steps; both give what they saw to the :class:`Records`, which update the balancer and are
    what a checkpoint holds.

    Args:
        balancer: A balancer, or a function that makes one from the number of held-out draws in a pass. It is called
            with None at once, since what the balancer needs decides the cadence, and with the number (None with the
            validation cadence) when a fit begins; so it has to be cheap, and both must need the same signals.
        tasks: Names in loader order. Default, the first that is there: the module's ``TaskWeights``, its
            ``task_names``, the datamodule's ``task_names``, the keys that match ``monitor`` in the sanity pass.
        every_n_steps: None = as the balancer says (its ``cadence``): after each validation pass, or every optimizer
            step for a balancer on training steps; n >= 1 = every n optimizer steps. Held-out losses then need the
            module's ``task_losses(batch)`` and ``held_out``.
        held_out: Step cadence only: task -> DataLoader over a map-style dataset. A record's mini-batch is split over
            the tasks: with batch size B and K tasks it holds ceil(B / K) rows of every task, drawn by the seed. The
            baseline reads all rows, B at a time. Default: ``trainer.datamodule.held_out_dataloaders()``.
        baseline: V(0): ``"measure"`` (a full held-out pass before training), ``"first_record"``, or task -> loss (a
            task left out: its first record).
        monitor: Key pattern under which ``validation_step`` logs task losses; not needed where it returns
            ``TaskLosses`` or a dict of task means.
        attribute: Name of the module's :class:`TaskWeights`; two balancers in one Trainer need two. What the second
            one logs is under ``balance/<attribute>``.
        prior: Task -> importance > 0 that multiplies the balancer's weights; default 1 each.
        min_weight: Floor m in [0, 1/K): weights become ``(1 - K m) w + m``.
        strict_tasks: On resume, refuse a checkpoint that lacks tasks; False admits added ones (uniform share, own
            baseline and warm-up).
        parameters: For a balancer that needs gradients, the parameters that these are of: ``"last_block"`` (default
            for gradient norms), ``"all"`` trainable ones (default else), or a regular expression on their names.
        max_overhead: Instead of ``every_n_steps``, the largest share of the training time that records may take, such
            as 0.03: the first steps are timed, with and without a record, and n follows from it.

    Attributes:
        balancer: The balancer; of a function, what it made last.

    Raises:
        ValueError: An argument is outside its domain or does not fit the module; before training starts.

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
        self._undo = ExitStack()
        self.reset()

    def reset(self) -> None:
        """Forget every record and the baseline: the next ``fit`` starts over."""
        self.balancer = made(self._given_balancer, num_draws=None)
        self._cadence = Cadence(self.balancer, self.every_n_steps, self.max_overhead)
        self._baseline = Baseline(self.baseline, type(self).__name__)
        self._records = Records(
            type(self).__name__, self._name, self._cadence, self.prior, self.min_weight, self.strict_tasks
        )
        self._listen_to(self._weights)

    def _listen_to(self, weights: TaskWeights) -> None:
        self._weights = weights
        self._usage = Usage(weights, type(self).__name__, self.attribute)
        self._silent = SilentTasks(weights, type(self).__name__)
        self._passes = PassWatch(self._records, weights, self._baseline, self._monitored)
        self._steps = StepWatch(self._records, weights, stream=None)

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
        recorder = self._records.recorder
        return (recorder.trajectory if recorder else task_trajectory(len(self.tasks))).columns()

    @property
    def interval(self) -> int | None:
        """Optimizer steps between two records; None = validation passes, or (``max_overhead``) not measured yet."""
        return self._cadence.interval

    @property
    def num_records(self) -> int:
        """Records so far; unlike ``history`` it asks no device for values."""
        return len(self._records)

    @property
    def label(self) -> str:
        """Name of the method in tables."""
        return self.balancer.label

    @property
    def losses_shown(self) -> Literal["validation", "training"]:
        """What ``history["loss"]`` and ``balance.csv`` hold: losses on held-out rows, or of training steps."""
        return "training" if self._cadence.watches_steps and "losses" not in self._cadence.needs else "validation"

    @property
    def _name(self) -> str:
        return BALANCE if self.attribute == "task_weights" else self.attribute

    def simplexes(self) -> list[Simplex]:
        """Return the task weights with their records, for what shows a run; empty before the tasks are known."""
        recorder = self._records.recorder
        if recorder is None:
            return []
        shown = {"losses": self.losses_shown, "interval": self.interval}
        return [Simplex(self._name, recorder.tasks, recorder.trajectory, **shown)]  # type: ignore[arg-type]

    def explain(self) -> str:
        """Say in a small table why each task has the weight that it has."""
        recorder = self._records.recorder
        return recorder.explain() if recorder else "No fit yet: every task has the same weight."

    @property
    def state_key(self) -> str:
        """Key of this callback in a checkpoint; holds ``attribute``, so that two balancers coexist."""
        return self._generate_state_key(attribute=self.attribute)

    # ------------------------------------------------------------------ hooks, in the order in which they fire

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Attach the weights, learn the task names, and ask for a full sanity pass where it is the baseline."""
        self._listen_to(attached_weights(pl_module, self.attribute))
        datamodule = getattr(trainer, "datamodule", None)
        bind_known_names(self._weights, self._given_tasks, pl_module, datamodule, self.held_out)
        if stage != "fit":
            return
        rivals = [callback for callback in trainer.callbacks if isinstance(callback, TaskBalancing)]
        notices.refuse_rivals(sum(rival._name == self._name for rival in rivals), self.attribute)
        if self._cadence.reads_held_out_rows:
            notices.refuse_step_cadence(trainer, pl_module, str(self._cadence), self.held_out)
        notices.refuse_setting(trainer, pl_module, self._cadence.needs, self.label)
        self._weights.listening = False
        if self._records.recorder is None and not self._cadence.by_steps:
            self._undo.enter_context(self._baseline.whole_sanity_pass(trainer))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Settle the balancer, and take over a checkpoint's records where there are any."""
        self._baseline.keep(None)
        self._records.begin_fit()
        loaders = held_out_loaders(self.held_out, trainer) if self._cadence.reads_held_out_rows else None
        names = self._records.tasks or tuple(loaders or ())
        if names and not self.tasks:
            self._weights.bind(names)
        stream = None if loaders is None else HeldOutStream(loaders, self.tasks, self._records.settled_seed())
        self._steps = StepWatch(self._records, self._weights, stream)
        self.balancer = made(self._given_balancer, stream.num_draws if stream else None, self._cadence.needs)
        self._records.go_on(self.balancer, self.tasks, pl_module.device)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the baseline and say what was settled."""
        if self._records.has_loaded and trainer.strategy.restore_checkpoint_after_setup:
            self.on_fit_start(trainer, pl_module)  # a strategy that shards loads a checkpoint only after that hook
        self._usage.begin_training()
        self._weights.to(pl_module.device)  # a strategy that wraps the module moves parameters and buffers alone
        if self.tasks:
            self._begin_records(trainer, pl_module)
        self._silent.begin_training(self._records)
        if self._cadence.watches_steps:
            self._watch_steps(trainer, pl_module)
        shaping = {"prior": self.prior, "min_weight": self.min_weight}
        notices.announce_settings(type(self).__name__, trainer, self.balancer, self._cadence, self.num_records, shaping)
        if len(self.tasks) == 1:
            notices.announce_one_task(type(self).__name__)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Follow a schedule that thaws parameters."""
        self._steps.begin_epoch(pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Apply the newest weights where an accumulation window begins, and listen where its step is due."""
        self._steps.begin_batch(trainer, pl_module, batch)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Take the tasks' gradients while the graph is there."""
        notices.refuse_constant_loss(loss, pl_module)
        self._steps.before_backward(trainer, loss)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Complete the step's gradients; a method that combines them acts here, before they are clipped."""
        self._steps.before_optimizer_step(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step cadence: take the record of an optimizer step that is due."""
        self._usage.end_batch(pl_module)
        self._records.pass_is_due = not self._cadence.by_steps and validation_is_due(trainer, batch_idx)
        self._steps.end_batch(trainer, pl_module)
        self._silent.end_batch()
        self._look_for_silent_tasks(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to listen to a pass."""
        self._usage.begin_pass()
        self._passes.begin(trainer, pl_module)

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
        self._passes.add(outputs)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation cadence: take the baseline (sanity pass) or a record."""
        self._usage.end_pass()
        if trainer.state.fn == TrainerFn.FITTING:
            self._passes.end(trainer, pl_module, lambda: self._begin_records(trainer, pl_module))
            self._look_for_silent_tasks(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse learned names that the training data never produced."""
        if self._passes.learned:
            notices.refuse_never_received(type(self).__name__, self.tasks, self._weights.received)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so if the run was too short to notice earlier that nobody used the weights."""
        self._usage.end_training(pl_module)
        self._records.refuse_difference(trainer)
        self._look_for_silent_tasks(trainer, is_end=True)
        self._records.forget_loaded()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of graphs, gradients and batches, and put back what was changed outside of this callback."""
        self._steps.end()
        self._undo.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Do the same where the fit did not come to its end."""
        self.teardown(trainer, pl_module, "fit")

    # ------------------------------------------------------------------ checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Return dicts, lists, tensors, numbers and strings only: Lightning loads with ``weights_only=True``."""
        return self._records.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the fit starts; one without records (a tuner's, say) restores nothing."""
        self._records.load_state_dict(state_dict)

    # ------------------------------------------------------------------ ranks that end with the fit

    def handed_back(self) -> dict[str, Any]:
        """Return the records and the weights in force, for the process that started the ranks."""
        num_draws = self._steps.stream.num_draws if self._steps.stream else None
        return {"records": self._records.state_dict(), "num_draws": num_draws, "in_force": self._weights.values}

    def take_back(self, trainer: L.Trainer, pl_module: L.LightningModule, state: dict[str, Any]) -> None:
        """Go on as if the fit had been made in this process."""
        records = state["records"]
        if records["recorder"] is None:
            return
        self._listen_to(attached_weights(pl_module, self.attribute))
        self._weights.bind(records["recorder"]["tasks"])
        self._weights.assign(state["in_force"])
        self.balancer = made(self._given_balancer, state["num_draws"], self._cadence.needs)
        self._weights.weighs = self.balancer.weighs
        self._records.take_back(records, self.balancer)

    # ------------------------------------------------------------------ what the hooks of the start do

    def _begin_records(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._records.recorder is None:
            initial = self._baseline.initial(
                self.tasks, self.balancer, self._cadence, self._steps.stream, trainer, module
            )
            self._records.begin(self.balancer, self.tasks, module.device, initial)
        self._weights.weighs = self.balancer.weighs

    def _look_for_silent_tasks(self, trainer: L.Trainer, is_end: bool = False) -> None:
        draws = self._steps.stream.num_draws if self._steps.stream is not None else 1
        self._silent.look(trainer, self._records, draws if self.losses_shown == "validation" else None, is_end)

    def _watch_steps(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not self.tasks:
            raise unknown_names(type(self).__name__, self._monitored, trainer.callback_metrics)
        notices.refuse_optimizers(trainer.optimizers, self.label)
        self._steps.watch(self.balancer, module, self.parameters)
        if self._steps.takes_gradients:
            self._undo.enter_context(graph_kept_after_backward())
