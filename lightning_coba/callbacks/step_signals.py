"""What a balancer may see of the training steps themselves: losses before and after, gradients."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, float64_device
from lightning_coba.callbacks.held_out import HeldOutStream, forked_rng
from lightning_coba.callbacks.look_ahead import hypergradients
from lightning_coba.callbacks.shared_parameters import ALL, LAST_BLOCK, shared_parameters
from lightning_coba.callbacks.task_gradients import TaskGradients
from lightning_coba.functional import TaskLosses, task_means
from lightning_coba.modules.protocol import SeedsForward
from lightning_coba.modules.task_weights import TaskWeights

#: Signals that are taken from training steps, and those of them that need each task's gradient.
TRAINING_SIGNALS = frozenset({"train_losses", "losses_after_step", "grad_norms", "gramian", "hypergradients"})
GRADIENT_SIGNALS = frozenset({"grad_norms", "gramian", "hypergradients"})
#: Signals that need rows on which nothing is trained.
HELD_OUT_SIGNALS = frozenset({"losses", "hypergradients"})


class _MicroBatch(NamedTuple):
    """What it takes to repeat a forward pass."""

    batch: Any
    number: int
    random_state: tuple[Tensor, Tensor | None]


class StepSignals:
    """Listens to ``combine`` during the optimizer steps whose signals are due, and turns them into numbers.

    Args:
        balancer: whose ``needs`` are to be met.
        weights: whose ``combine`` the module calls.
        module: that is trained.
        parameters: the set that gradients are taken of (see :func:`shared_parameters`); default: the last block's for
            gradient norms, all for the rest.

    Raises:
        ValueError: if the balancer needs gradients and there is no such parameter.
    """

    def __init__(
        self, balancer: Balancer, weights: TaskWeights, module: L.LightningModule, parameters: str | None
    ) -> None:
        self.balancer = balancer
        self.needs = balancer.needs & TRAINING_SIGNALS
        self.weights = weights
        self.gradients: TaskGradients | None = None
        self._totals = torch.zeros(2, len(weights.tasks), dtype=torch.float64, device=float64_device(module.device))
        self._micro_batches: list[_MicroBatch] = []
        self._random_state: tuple[Tensor, Tensor | None] | None = None
        self._hypergradients: Tensor | None = None
        self._heard = False
        # One task has weight 1, whatever anybody measures.
        self._alone = len(weights.tasks) == 1
        if balancer.acts_on == "this step" and parameters not in (None, ALL):
            raise ValueError(
                f"`parameters` must be None for {balancer.label}, which combines the gradients of all trainable "
                f"parameters; got {parameters!r}. Leave it out."
            )
        if self.needs & GRADIENT_SIGNALS and not self._alone:
            which = parameters or (LAST_BLOCK if "grad_norms" in self.needs else ALL)
            self.gradients = TaskGradients(shared_parameters(module, which), len(weights.tasks))
            # A compiled model would free what the second task's backward pass needs.
            torch._functorch.config.donated_buffer = False

    @property
    def due(self) -> bool:
        """Whether the step under way will be observed."""
        return self.weights.listening

    def begin_step(self, due: bool) -> None:
        """Start to listen, where the step that begins is due."""
        self.weights.listening = due
        self.weights.kept.clear()
        self._micro_batches.clear()
        self._heard = False
        if due:
            self._totals.zero_()
            if self.gradients is not None:
                self.gradients.clear()

    def begin_batch(self, module: L.LightningModule) -> None:
        """Remember the random state from which this micro-batch's forward starts."""
        if self.due and "losses_after_step" in self.needs:
            cuda = torch.cuda.get_rng_state(module.device) if module.device.type == "cuda" else None
            self._random_state = torch.get_rng_state(), cuda

    def before_backward(self, trainer: L.Trainer, loss: Tensor) -> None:
        """Take the tasks' gradients from the graph that the backward pass is about to free."""
        if not self.due:
            return
        if self.gradients is not None:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            for kept in self.weights.kept:
                self.gradients.add(kept, loss, 1.0 if scaler is None else scaler.get_scale())
        self._take_losses()

    def _take_losses(self) -> None:
        for kept in self.weights.kept:
            self._totals += torch.stack([kept.own.sums.to(self._totals), kept.own.counts.to(self._totals)])
            self._heard = True
        self.weights.kept.clear()

    def before_step(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        weights: Tensor,
        stream: HeldOutStream | None,
        draw: int,
    ) -> None:
        """Complete the gradients of the step, at the parameters that they were taken at.

        Args:
            trainer: that fits.
            module: that is trained.
            weights: in force, ``[K]``.
            stream: of held-out rows, where they are needed.
            draw: number of the mini-batch.
        """
        if not self.due or self.gradients is None:
            return
        self.gradients.reduce(trainer.strategy)
        if "hypergradients" in self.needs:
            assert stream is not None
            lr = self.balancer.look_ahead_lr  # type: ignore[attr-defined]
            tasks = self.weights.tasks
            self._hypergradients = hypergradients(self.gradients, weights, lr, stream, draw, trainer, module, tasks)

    def end_batch(self, trainer: L.Trainer, batch: Any) -> None:
        """Take what no backward pass has announced, and keep the batch where its forward is to be repeated."""
        if not self.due:
            return
        self._take_losses()
        if "losses_after_step" in self.needs and not self._alone:
            assert self._random_state is not None
            number = trainer.fit_loop.epoch_loop.batch_progress.total.completed
            self._micro_batches.append(_MicroBatch(batch, number, self._random_state))

    def observe(self, trainer: L.Trainer, module: L.LightningModule) -> tuple[dict[str, Tensor], Tensor]:
        """Return the step's signals by name, ``train_losses`` always among them, and which tasks it held, ``[K]``.

        Raises:
            RuntimeError: if ``combine`` was not called in the step.
        """
        if not self._heard:
            raise RuntimeError(
                f"{self.balancer.label} works on the losses that training_step gives to `combine`, and in step "
                f"{trainer.global_step} it gave none. In training_step write: return self.task_weights.combine(losses)"
            )
        sums, counts = trainer.strategy.reduce(self._totals.clone(), reduce_op="sum")
        present = counts > 0
        signals = {"train_losses": torch.where(present, task_means(TaskLosses(sums, counts)), torch.nan)}
        if self._alone:
            return signals | {name: self._nothing(name) for name in self.needs - {"train_losses"}}, present
        if "losses_after_step" in self.needs:
            signals["losses_after_step"] = self._repeated(trainer, module)
        if self.gradients is not None:
            if "grad_norms" in self.needs:
                signals["grad_norms"] = torch.where(present, self.gradients.norms().to(sums), torch.nan)
            if "gramian" in self.needs:
                signals["gramian"] = self.gradients.gramian().to(sums)
            if "hypergradients" in self.needs:
                assert self._hypergradients is not None
                signals["hypergradients"] = self._hypergradients
                # A task without training rows in the step may have held-out ones: its own column is 0, its row counts.
                present = present | self._hypergradients.isfinite().all(dim=1)
        return signals, present

    def _nothing(self, name: str) -> Tensor:
        shape = (1, 1) if name in ("gramian", "hypergradients") else (1,)
        return self._totals.new_ones(shape)

    def _repeated(self, trainer: L.Trainer, module: L.LightningModule) -> Tensor:
        """Return the losses of the step's rows at the parameters of now, with the dropout of then."""
        totals = torch.zeros_like(self._totals)
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        with forked_rng(module), torch.no_grad(), trainer.precision_plugin.train_step_context():
            for batch, number, (state, cuda) in self._micro_batches:
                torch.set_rng_state(state)
                if cuda is not None:
                    torch.cuda.set_rng_state(cuda, module.device)
                if isinstance(module, SeedsForward):
                    module.seed_forward(number)
                totals += _by_task(module.task_losses(batch), self.weights.tasks).to(totals)
        # Running statistics of a normalisation would count the rows twice.
        for buffer, before in buffers:
            buffer.copy_(before)
        self._micro_batches.clear()
        sums, counts = trainer.strategy.reduce(totals, reduce_op="sum")
        return torch.where(counts > 0, task_means(TaskLosses(sums, counts)), torch.nan)


def _by_task(losses: TaskLosses | Mapping[str, Tensor], tasks: Sequence[str]) -> Tensor:
    """Return sums and counts, ``[2, K]``; of means, the means and 1 each."""
    if isinstance(losses, TaskLosses):
        return torch.stack([losses.sums, losses.counts.to(losses.sums)])
    one = next(iter(losses.values()))
    sums = torch.stack([losses[task].reshape(()) if task in losses else torch.zeros_like(one) for task in tasks])
    return torch.stack([sums, torch.tensor([float(task in losses) for task in tasks]).to(sums)])
