"""What a balancer may see of the training steps themselves: losses before and after, gradients."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, float64_device, moved
from lightning_coba.balancing.held_out import HeldOutStream
from lightning_coba.balancing.look_ahead import hypergradients
from lightning_coba.balancing.protocol import SeedsForward
from lightning_coba.balancing.shared_parameters import ALL, LAST_BLOCK, shared_parameters
from lightning_coba.balancing.task_gradients import TaskGradients
from lightning_coba.balancing.task_weights import KeptLosses, TaskWeights
from lightning_coba.errors import UserError, WrongUseError
from lightning_coba.functional import (
    RandomState,
    TaskLosses,
    random_state,
    set_random_state,
    task_means,
    undisturbed,
)
from lightning_coba.lightning_internals import num_batches_done

#: Signals that are taken from training steps, and those of them that need each task's gradient.
TRAINING_SIGNALS = frozenset({"train_losses", "losses_after_step", "grad_norms", "gramian", "hypergradients"})
GRADIENT_SIGNALS = frozenset({"grad_norms", "gramian", "hypergradients"})
#: Signals that need rows on which nothing is trained.
HELD_OUT_SIGNALS = frozenset({"losses", "hypergradients"})


class _MicroBatch(NamedTuple):
    """What it takes to repeat a forward pass."""

    batch: Any
    number: int
    random_state: RandomState


class StepSignals:
    """Listens to ``combine`` during the optimizer steps whose signals are due, and turns them into numbers.

    Args:
        balancer: The balancer whose ``needs`` are to be met.
        weights: The weights whose ``combine`` the module calls.
        module: The module that is trained.
        parameters: The set that gradients are taken of (see :func:`shared_parameters`); default: the last block's for
            gradient norms, all for the rest.

    Raises:
        ValueError: The balancer needs gradients and there is no such parameter.
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
        self._hypergradients: Tensor | None = None
        self._heard = False
        self._ever_heard = False
        # One task has weight 1, whatever anybody measures.
        self._alone = len(weights.tasks) == 1
        if balancer.acts_on == "this step" and parameters not in (None, ALL):
            raise UserError(
                f"`parameters` must be None for {balancer.label}, which combines the gradients of all trainable "
                f"parameters; got {parameters!r}.",
                "Leave it out.",
            )
        if self.needs & GRADIENT_SIGNALS and not self._alone:
            self._which = parameters or (LAST_BLOCK if "grad_norms" in self.needs else ALL)
            self.gradients = TaskGradients(shared_parameters(module, self._which), len(weights.tasks))

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
        self._hypergradients = None
        if due:
            self._totals.zero_()
            if self.gradients is not None:
                self.gradients.clear()

    def begin_epoch(self, module: L.LightningModule) -> None:
        """Look again which parameters are trained: a finetuning schedule may have thawed some."""
        if self.gradients is not None:
            chosen = shared_parameters(module, self._which)
            if [id(p) for p in chosen] != [id(p) for p in self.gradients.parameters]:
                self.gradients = TaskGradients(chosen, len(self.weights.tasks))

    def end(self) -> None:
        """Stop to listen; a fit is over."""
        self.weights.listening = False
        self.weights.kept.clear()

    def begin_batch(self, module: L.LightningModule, batch: Any) -> None:
        """Remember the batch, and the random state from which its forward starts."""
        if self.due and "losses_after_step" in self.needs:
            number = num_batches_done(module.trainer)
            # A copy: training_step may take entries out of its batch.
            self._micro_batches.append(_MicroBatch(copy(batch), number, random_state(module.device)))

    def before_backward(self, trainer: L.Trainer, loss: Tensor) -> None:
        """Take the tasks' gradients from the graph that the backward pass is about to free."""
        if not self.due:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        candidates = list(self.weights.kept)
        for kept in candidates:
            # Which call of `combine` this loss comes from is plain where there was one, and nobody asks for gradients.
            if self.gradients is None and len(candidates) == 1:
                self._take(kept)
                continue
            [upstream] = torch.autograd.grad(loss, kept.value, retain_graph=True, allow_unused=True)
            if upstream is None:
                continue
            self._take(kept)
            if self.gradients is not None:
                present = self.gradients.add(kept, upstream, 1.0 if scaler is None else scaler.get_scale())
                if present and not self.gradients.found:
                    raise WrongUseError(
                        f"{self.balancer.label} found no gradient of the tasks' losses on the chosen parameters.",
                        "Choose others with `parameters`; with torch.utils.checkpoint set use_reentrant=False.",
                    )

    def _take(self, kept: KeptLosses) -> None:
        self._totals += torch.stack([moved(kept.own.sums, self._totals), moved(kept.own.counts, self._totals)])
        self._heard = self._ever_heard = True
        self.weights.kept = [other for other in self.weights.kept if other is not kept]

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
        if not self.due or self.gradients is None or not self._heard or self.gradients.complete:
            return
        self.gradients.reduce(trainer.strategy)
        if "hypergradients" in self.needs:
            assert stream is not None
            lr = self.balancer.look_ahead_lr  # type: ignore[attr-defined]
            self._hypergradients = hypergradients(self.gradients, weights, lr, stream, draw, trainer, module)

    @property
    def combines_now(self) -> bool:
        """Whether the step's gradients are complete and the method acts on this very step."""
        acts = self.balancer.acts_on == "this step"
        return acts and self.gradients is not None and self.gradients.complete

    def combine(self, shares: Tensor) -> None:
        """Add the tasks' gradients, each times its share ``[K]``, to those of the weighted loss."""
        assert self.gradients is not None
        self.gradients.add_to_grads(shares)

    def end_batch(self) -> None:
        """Forget what was combined and not minimised."""
        self.weights.kept.clear()

    def totals(self, trainer: L.Trainer) -> Tensor:
        """Return sums and counts of the step's training losses over all micro-batches and ranks, ``[2, K]``."""
        totals: Tensor = trainer.strategy.reduce(self._totals.clone(), reduce_op="sum")
        return totals

    def refuse_silence(self) -> None:
        """Raise RuntimeError if no loss of ``combine`` was ever minimised."""
        if not self._ever_heard:
            raise WrongUseError(
                f"{self.balancer.label} works on the losses that training_step gives to `combine` and minimises, and "
                "there were none.",
                "In training_step write: return self.task_weights.combine(losses)",
            )

    def observe(self, trainer: L.Trainer, module: L.LightningModule) -> tuple[dict[str, Tensor], Tensor]:
        """Return the step's signals by name, ``train_losses`` always among them, and which tasks it held, ``[K]``.

        A step that training_step skipped holds none.

        Raises:
            RuntimeError: No loss of ``combine`` was ever minimised.
        """
        self.refuse_silence()
        sums, counts = self.totals(trainer)
        present = counts > 0
        signals = {"train_losses": means_or_nan(sums, counts)}
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
                if self._hypergradients is None:
                    self._hypergradients = sums.new_full((len(sums), len(sums)), torch.nan)
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
        # Running statistics of a normalisation would count the rows twice.
        context = trainer.precision_plugin.train_step_context()
        with undisturbed(module, evaluate=False), torch.no_grad(), context:
            for batch, number, state in self._micro_batches:
                set_random_state(state, module.device)
                if isinstance(module, SeedsForward):
                    module.seed_forward(number)
                totals += moved(_by_task(module.task_losses(batch), self.weights.tasks), totals)
        self._micro_batches.clear()
        return means_or_nan(*trainer.strategy.reduce(totals, reduce_op="sum"))


def means_or_nan(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the mean loss of each task, ``[K]``; NaN where it has none."""
    return torch.where(counts > 0, task_means(TaskLosses(sums, counts)), torch.nan)


def _by_task(losses: TaskLosses | Mapping[str, Tensor], tasks: Sequence[str]) -> Tensor:
    """Return sums and counts, ``[2, K]``; of means, the means and 1 each."""
    if isinstance(losses, TaskLosses):
        return torch.stack([losses.sums, losses.counts.to(losses.sums)])
    one = next(iter(losses.values()))
    sums = torch.stack([losses[task].reshape(()) if task in losses else torch.zeros_like(one) for task in tasks])
    return torch.stack([sums, torch.tensor([float(task in losses) for task in tasks]).to(sums)])
