from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_coba.balancing.pass_finiteness import PassFiniteness
from lightning_coba.balancing.publish import is_log_step
from lightning_coba.balancing.task_weights import TaskWeights
from lightning_coba.errors import DivergedError, UserError
from lightning_coba.functional import BadSteps
from lightning_coba.lightning_internals import hand_back_errors

hand_back_errors()

#: More optimizer steps than any run has.
MOST_STEPS = 2**40
#: What to do about a run that has diverged.
TRY = (
    "Lower the learning rate (`optimizer.lr`), clip gradients (`trainer.gradient_clip_val`), or warm up longer "
    "(`scheduler.num_warmup_steps`)."
)


class DivergenceGuard(L.Callback):
    """Stop a training that has diverged, before anything that is not finite is written to a checkpoint.

    Use it with any LightningModule. It stops the fit with one sentence, as a :class:`~lightning_coba.errors.\
DivergedError`, where

    * the training loss is not finite in ``num_bad_steps`` optimizer steps in a row,
    * a trained weight is not finite: looked at after each validation pass, at the end of an epoch and of the fit, and
      before any checkpoint is written,
    * a task's validation loss is not finite, and was before. A task whose validation loss never was finite stops
      nothing until the fit ends. A task that is absent from a pass is left out of account.

    It changes nothing about the training, and all ranks stop together. Counting is done on the device. On the CPU, with
    one process, it is read after each step; elsewhere at the steps at which the Trainer logs and at validation passes,
    so that no step waits for the device.

    Args:
        num_bad_steps: Optimizer steps in a row without a finite training loss after which the run has diverged.
        monitor: Key pattern under which ``validation_step`` logs task losses; not needed where it returns
            ``TaskLosses`` or a dict of task means.

    Raises:
        ValueError: ``num_bad_steps`` is no integer >= 1.

    Example:
        >>> trainer = L.Trainer(callbacks=[DivergenceGuard(num_bad_steps=5)], logger=False, enable_checkpointing=False)
    """

    def __init__(self, num_bad_steps: int = 3, monitor: str = "val_loss/{task}") -> None:
        if type(num_bad_steps) is not int or num_bad_steps < 1:
            raise UserError(f"`DivergenceGuard.num_bad_steps` must be an integer >= 1; got {num_bad_steps!r}.")
        self.num_bad_steps = num_bad_steps
        self._passes = PassFiniteness(monitor)
        self._weights: TaskWeights | None = None
        self._steps = BadSteps.none(0)
        self._loaded: list[Any] | None = None
        self._bad: Tensor | None = None  # in the accumulation window under way: the loss, then each task's
        self._at_once = False
        self._step_before = 0
        self._finite_at: int | None = None

    # ------------------------------------------------------------------ training losses

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the counters where the losses will be."""
        self._weights = next((part for part in pl_module.modules() if isinstance(part, TaskWeights)), None)
        device = pl_module.device
        self._steps = BadSteps.none(len(self._tasks), device)
        if self._loaded is not None and len(self._loaded[2]) == len(self._tasks):
            like = zip(self._loaded, self._steps, strict=True)  # an empty list says nothing of its type
            self._steps = BadSteps(*(torch.tensor(entry, dtype=part.dtype, device=device) for entry, part in like))
        self._loaded, self._bad, self._finite_at = None, None, None
        self._step_before = trainer.global_step
        self._at_once = device.type == "cpu" and trainer.world_size == 1

    @property
    def _tasks(self) -> tuple[str, ...]:
        return self._weights.tasks if self._weights is not None else ()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and read the count where that costs nothing."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        if isinstance(loss, Tensor):
            bad = self._bad_parts(loss.detach())
            self._bad = bad if self._bad is None else self._bad | bad
        step = trainer.global_step
        if step == self._step_before:
            return
        self._step_before = step
        if self._bad is not None:
            self._steps = self._steps.after(step, self._bad[0], self._bad[1:], self.num_bad_steps)
            self._bad = None
        if self._at_once or is_log_step(trainer, step):
            self._judge_steps(pl_module)

    def _bad_parts(self, loss: Tensor) -> Tensor:
        """Return whether the loss of a batch is not finite, and then each task's, as far as the batch has them."""
        tasks = self._steps.tasks
        bad = ~loss.isfinite().all().reshape(1).to(tasks.device)
        latest = None if self._weights is None else self._weights.latest
        if latest is None or len(latest[0]) != len(tasks):
            return torch.cat([bad, torch.zeros_like(tasks)])
        means, present = (part.to(tasks.device) for part in latest)
        return torch.cat([bad, present & ~means.isfinite()])

    def _judge_steps(self, module: L.LightningModule) -> None:
        row, first, tasks = self._read_steps(module)
        if row >= self.num_bad_steps:
            in_a_row = f", for {row} optimizer steps in a row" if row > 1 else ""
            raise DivergedError(
                f"Training diverged: the training loss was not finite from step {first} on{_of(tasks)}{in_a_row}.",
                TRY,
                step=first,
                tasks=tasks,
            )

    def _read_steps(self, module: L.LightningModule) -> tuple[int, int, tuple[str, ...]]:
        """Return, of the rank that has the most bad steps in a row, their number, the first, and its bad tasks."""
        steps, reduce = self._steps, module.trainer.strategy.reduce
        own = steps.row * MOST_STEPS - steps.first  # the most in a row, then the earliest
        worst: Any = reduce(own.clone(), reduce_op="max")
        row = -(-int(worst) // MOST_STEPS)
        if not row:
            return 0, 0, ()
        bad: Any = reduce((steps.tasks & (own == worst)).long(), reduce_op="max")
        names = tuple(task for task, is_bad in zip(self._tasks, bad.tolist(), strict=True) if is_bad)
        return row, row * MOST_STEPS - int(worst), names

    # ------------------------------------------------------------------ validation losses

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to listen to a pass."""
        weights = next((part for part in pl_module.modules() if isinstance(part, TaskWeights)), None)
        self._passes.begin(trainer, pl_module, weights.tasks if weights is not None else ())

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
        """Judge weights and losses; a checkpoint of the pass is written after this."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if not trainer.sanity_checking:
            self._judge_weights(trainer, pl_module)
            self._judge_steps(pl_module)
        lost = self._passes.end(trainer)
        if lost and not trainer.sanity_checking:
            raise DivergedError(
                f"Training diverged: the validation loss of {', '.join(lost)} is no longer finite at step "
                f"{trainer.global_step}.",
                TRY,
                step=trainer.global_step,
                tasks=tuple(lost),
            )

    # ------------------------------------------------------------------ trained weights

    def _judge_weights(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._finite_at == trainer.global_step:
            return
        counts = _count_bad_tensors(module.parameters())
        # A rank may hold a part of the weights alone.
        bad = int(trainer.strategy.reduce(counts.to(module.device), reduce_op="max")) if counts is not None else 0
        if not bad:
            self._finite_at = trainer.global_step
            return
        row, first, tasks = self._read_steps(module)
        since = f"; the training loss was not finite from step {first} on{_of(tasks)}" if row else ""
        first = first if row else trainer.global_step
        raise DivergedError(
            f"Training diverged: {bad} of {sum(p.requires_grad for p in module.parameters())} trained tensors are not "
            f"finite at step {trainer.global_step}{since}.",
            TRY,
            step=first,
            tasks=tasks,
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge the weights: a checkpoint of the epoch is written after this."""
        self._judge_weights(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge the weights, the last steps, and the tasks whose validation loss was never finite."""
        self._judge_weights(trainer, pl_module)
        self._judge_steps(pl_module)
        never = self._passes.never_finite
        if never:
            raise DivergedError(
                f"Training diverged: the validation loss of {', '.join(never)} was not finite in any pass.",
                "Check the task's validation rows (coba-data check) and what its loss is divided by; if both are "
                f"correct, {TRY[0].lower()}{TRY[1:]}",
                step=min(never.values()),
                tasks=tuple(never),
            )

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Judge the weights that are about to be written."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._judge_weights(trainer, pl_module)

    # ------------------------------------------------------------------ checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Return the row of bad steps, and which tasks had a finite validation loss."""
        return {"steps": [part.tolist() for part in self._steps], "passes": self._passes.state_dict()}

    @staticmethod
    def tells_of_divergence(state_dict: Mapping[str, Any]) -> bool:
        """Return whether, when a state was saved, the training losses or all validation losses were not finite."""
        passes = state_dict["passes"]
        return state_dict["steps"][0] > 0 or bool(passes["never_finite"] and not passes["finite"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the counts until the training starts."""
        self._loaded = state_dict["steps"]
        self._passes.load_state_dict(state_dict["passes"])


def _count_bad_tensors(parameters: Iterable[Tensor]) -> Tensor | None:
    """Return how many of the trained tensors hold something that is not finite; None where none is trained."""
    trained = [p.detach() for p in parameters if p.requires_grad]
    # Of a sharded tensor, the part that is here.
    here = [p.to_local() if hasattr(p, "to_local") else p for p in trained]
    bad = [~p.isfinite().all() for p in here]
    return torch.stack([flag.to(bad[0].device) for flag in bad]).sum() if bad else None


def _of(tasks: tuple[str, ...]) -> str:
    return f" ({', '.join(tasks)})" if tasks else ""
