"""What :class:`~lightning_coba.TaskBalancing` refuses, announces and warns of: the sentences a user may read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_coba.balancers.base import SIGNALS, Balancer
from lightning_coba.balancing.protocol import ReportsTaskLosses
from lightning_coba.balancing.run_length import expected_records
from lightning_coba.balancing.step_budget import StepBudget
from lightning_coba.balancing.task_weights import TaskWeights
from lightning_coba.errors import UserError, WrongUseError
from lightning_coba.lightning_internals import uses_static_graph

#: Parts of the names of strategies under which a rank holds only a piece of each parameter.
SHARDED_STRATEGIES = ("FSDP", "DeepSpeed", "ModelParallel")


def check_arguments(
    tasks: Any,
    every_n_steps: Any,
    baseline: Any,
    prior: Mapping[str, float] | None,
    min_weight: float,
    max_overhead: Any = None,
) -> None:
    """Raise ValueError where an argument of the callback is outside its domain."""
    if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
        raise UserError(f"`every_n_steps` must be None or an integer >= 1; got {every_n_steps!r}.")
    if max_overhead is not None and not (isinstance(max_overhead, int | float) and 0 < max_overhead < float("inf")):
        raise UserError(f"`max_overhead` must be None or a share > 0 such as 0.03; got {max_overhead!r}.")
    if max_overhead is not None and every_n_steps is not None:
        raise UserError(
            f"`max_overhead` must be None where `every_n_steps` is given; got {max_overhead} and {every_n_steps}.",
            "`max_overhead` chooses the interval itself: leave one of the two out.",
        )
    if isinstance(baseline, str) and baseline not in ("measure", "first_record"):
        raise UserError(f'`baseline` must be "measure", "first_record" or {{task: V(0)}}; got {baseline!r}.')
    if prior is not None and any(not 0 < value < float("inf") for value in prior.values()):
        raise UserError(f"`prior` must be finite numbers > 0; got {dict(prior)}.")
    if not 0 <= min_weight < 1:
        raise UserError(f"`min_weight` must be in [0, 1/K); got {min_weight}.")
    if isinstance(tasks, str):
        raise UserError(f"`tasks` must be a list of names; got the string {tasks!r}.", f"Write [{tasks!r}].")


def refuse_attribute(attribute: str, value: Any, module: L.LightningModule) -> None:
    """Raise ValueError if the module has something else than weights under the callback's name."""
    if not isinstance(value, TaskWeights):
        raise UserError(
            f"`attribute={attribute!r}` must be a TaskWeights of {type(module).__name__}; it is a "
            f"{type(value).__name__}.",
            "Give the callback another `attribute`.",
        )


def refuse_rivals(num_balancers: int, attribute: str) -> None:
    """Raise ValueError if several balancers move the same weights."""
    if num_balancers > 1:
        raise UserError(
            f"{num_balancers} balancers move `{attribute}`.",
            "Give each its own `attribute`, and use that one in its part of training_step.",
        )


def refuse_other_cadence(before: str, now: str) -> None:
    """Raise ValueError where a checkpoint was written with another step cadence: its draws are counted by it."""
    if before != now:
        raise UserError(
            f"The checkpoint was written with {before}; this run has {now}.",
            "Resume with the same cadence, or start a new run.",
        )


def refuse_step_cadence(trainer: L.Trainer, module: L.LightningModule, cadence: str, held_out: Any) -> None:
    """Raise ValueError if module or data cannot give held-out losses between validations."""
    if not isinstance(module, ReportsTaskLosses):
        raise UserError(
            f"`{cadence}` needs held-out losses between validations, and {type(module).__name__} has no `task_losses`.",
            "Add\n\n    def task_losses(self, batch):\n        return {task: loss, ...}  # or TaskLosses(sums, "
            "counts)\n\nor leave `every_n_steps` out to balance after each validation pass.",
        )
    if held_out is None and not hasattr(getattr(trainer, "datamodule", None), "held_out_dataloaders"):
        raise UserError(
            f"`{cadence}` needs held-out rows.",
            "Give `held_out={task: DataLoader}`, or a datamodule with `held_out_dataloaders()`.",
        )


def refuse_setting(trainer: L.Trainer, module: L.LightningModule, needs: frozenset[str], method: str) -> None:
    """Raise ValueError if the balancer needs what module or strategy cannot give."""
    unknown = sorted(needs - set(SIGNALS))
    if unknown:
        raise UserError(f"{method} needs {', '.join(unknown)}, which this callback cannot give.")
    if "losses_after_step" in needs and not isinstance(module, ReportsTaskLosses):
        raise UserError(
            f"{method} needs the losses of a batch again after the step, and {type(module).__name__} has no "
            "`task_losses`.",
            "Add\n\n    def task_losses(self, batch):\n        return {task: loss, ...}  # or TaskLosses(sums, "
            "counts)\n\nand call it in training_step too.",
        )
    sharded = any(kind in type(trainer.strategy).__name__ for kind in SHARDED_STRATEGIES)
    if needs & {"grad_norms", "gramian", "hypergradients"} and sharded:
        raise UserError(
            f"{method} needs each task's gradient as a whole, and {type(trainer.strategy).__name__} shards parameters.",
            "Use strategy=ddp, or a balancer on losses: CoBa, LBTW, DWA.",
        )
    if needs & {"grad_norms", "gramian", "hypergradients"} and uses_static_graph(trainer):
        raise UserError(
            f"{method} needs each task's gradient before the backward pass, and DDP with static_graph=True takes the "
            "first backward pass for the whole step.",
            "Leave static_graph out.",
        )


def refuse_optimizers(optimizers: Iterable[Any], method: str) -> None:
    """Raise ValueError for an optimizer that evaluates the loss several times a step: which of them is the step?"""
    if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in optimizers):
        raise UserError(
            f"{method} works on one evaluation of the losses per step, and LBFGS makes several.",
            "Use another optimizer.",
        )


def refuse_constant_loss(loss: torch.Tensor, module: L.LightningModule) -> None:
    """Raise ValueError for a loss that no parameter has a part in, such as ``combine`` of plain numbers."""
    if not loss.requires_grad:
        raise UserError(
            f"The loss of {type(module).__name__}.training_step must depend on a trained parameter; got {loss.item()}, "
            "which depends on none.",
            "Return None from training_step to skip a batch without losses.",
        )


def refuse_other_tasks(before: Iterable[str], now: Iterable[str]) -> None:
    """Raise ValueError if a second fit brings other tasks than the records are of."""
    if tuple(before) != tuple(now):
        raise UserError(
            f"The records so far are of the tasks {', '.join(before)}; this fit has {', '.join(now)}.",
            "Use the same tasks in the same order, or call `reset()` to start over.",
        )


def refuse_never_received(callback: str, learned: Iterable[str], received: set[str]) -> None:
    """Raise RuntimeError if a name that was learned from logged keys never was a task in training."""
    never = [task for task in learned if task not in received]
    if received and never:
        raise WrongUseError(
            f"`combine` received {', '.join(sorted(received))} in a whole epoch, and never {', '.join(never)}, which "
            "counts as a task because its loss is logged.",
            f"Name the tasks: {callback}(tasks={sorted(received)}).",
        )


def announce_names(callback: str, names: Iterable[str], left_out: Sequence[str] = ()) -> None:
    """Print the names that were learned from logged keys, and which keys were taken for summaries."""
    told = f"{callback} balances the tasks that it found logged: {', '.join(names)}."
    if left_out:
        told += f" Left out as a summary of them: {', '.join(left_out)}; if that is a task, name all with tasks=[...]."
    rank_zero_info(told)


def announce_first_record(callback: str, trainer: L.Trainer) -> None:
    """Print that no baseline could be measured, and why."""
    if trainer.fast_dev_run:
        why = "fast_dev_run validates nothing before training"
    elif not trainer.num_sanity_val_steps:
        why = "num_sanity_val_steps=0 leaves out the validation pass before training"
    else:
        why = "no task's loss was logged or returned in a validation pass before training"
    rank_zero_info(f"{callback}: {why}, so each task's baseline V(0) is its first record.")


def announce_settings(
    callback: str, trainer: L.Trainer, balancer: Balancer, cadence: Any, num_records: int, shaping: Mapping[str, Any]
) -> None:
    """Print the settled values; warn if the warm-up would outlast the run.

    Args:
        callback: Name of the callback.
        trainer: The Trainer that fits.
        balancer: The balancer, settled.
        cadence: The :class:`~lightning_coba.balancing.cadence.Cadence`.
        num_records: Records that there are already.
        shaping: What else changes the weights, by name; printed where it is not empty or 0.
    """
    interval = cadence.interval
    how_often = f"every {interval} steps" if interval != 1 else "every step"
    if not cadence.by_steps:
        how_often = "every validation pass"
    elif interval is None:
        how_often = "as often as the first steps show it can be paid for"
    settings = [repr(balancer), *(f"{name} {value}" for name, value in shaping.items() if value)]
    rank_zero_info(f"{callback}: {', '.join(settings)}, a record {how_often}.")
    warmup = getattr(balancer, "warmup_records", 0)
    if not warmup or trainer.fast_dev_run or (cadence.by_steps and interval is None):
        return
    to_come = expected_records(trainer, interval)
    if num_records + to_come < warmup + 2:
        setting = "`every_n_steps`" if cadence.by_steps else "`trainer.val_check_interval`"
        said = f"about {to_come:.0f} {'record is' if round(to_come) == 1 else 'records are'} to come"
        if num_records:
            said += f" after the {num_records} taken so far"
        rank_zero_warn(
            f"{callback}: {said}, and the weights move from record {warmup} on at the earliest: too few to balance "
            f"anything. A smaller {setting} gives more."
        )


def announce_one_task(callback: str) -> None:
    """Print that there is nothing to balance."""
    rank_zero_info(f"{callback}: there is one task, so its weight is 1 and nothing is balanced.")


def announce_interval(callback: str, budget: StepBudget) -> None:
    """Print the interval that keeps records within their share of the time."""
    rank_zero_info(
        f"{callback}: a step takes {budget.step_seconds:.3g} s, and a record {budget.record_seconds:.3g} s more. "
        f"Every {budget.interval} steps, records take a share of {budget.share:g} of the time or less (max_overhead)."
    )


def announce_other_draws(callback: str) -> None:
    """Print that a resumed run draws other held-out rows than the one that was stopped would have."""
    rank_zero_info(
        f"{callback}: the checkpoint was written by version 0.4, which drew held-out rows in another order; from here "
        "on they come in the order of this version."
    )


def warn_of_lost_pass(callback: str) -> None:
    """Warn that the resumed checkpoint was written between a step and the validation pass due at it."""
    rank_zero_warn(
        f"{callback}: the checkpoint was written just before a validation pass that was due, and Lightning never "
        "runs it again, so a record is missing. Write checkpoints that are to be resumed after validation, or at "
        "steps where no validation is due."
    )


def warn_of_unused_weights(callback: str, module: L.LightningModule, attribute: str) -> None:
    """Warn that nothing in training read the weights."""
    rank_zero_warn(
        f"{type(module).__name__} never used `self.{attribute}`: {callback} computes weights that change nothing. "
        f"In training_step write: return self.{attribute}.combine(losses)"
    )


def warn_of_missing_losses(callback: str, tasks: Iterable[str], records: int) -> None:
    """Warn that tasks had no finite held-out loss in any record so far."""
    rank_zero_warn(
        f"{callback}: no finite held-out loss of {', '.join(tasks)} in the first {records} records, so how it "
        "converges is unknown. Check that it has validation rows, and that validation_step logs or returns its loss."
    )


def warn_of_untrained_tasks(callback: str, tasks: Iterable[str], batches: int) -> None:
    """Warn that declared tasks were in no training batch so far."""
    rank_zero_warn(
        f"{callback}: no training row of {', '.join(tasks)} in the first {batches} batches. Check that it has training "
        "rows and how often they are drawn, or leave it out of the tasks."
    )
