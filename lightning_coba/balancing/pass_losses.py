"""Where a validation pass's task losses come from: what the module returned, or what it logged."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_coba.balancers.base import float64_device, moved
from lightning_coba.balancing.logged_keys import LOADER_SUFFIX, is_summary, plain_keys
from lightning_coba.balancing.loss_sums import LossSums, MeasuredLosses
from lightning_coba.errors import UserError, WrongUseError
from lightning_coba.functional import TaskLosses


class ReturnedLosses:
    """Accumulates the losses that ``validation_step`` returns, reduced over ranks once a pass.

    Args:
        tasks: Names, in task order.
        device: Device of the module.

    Attributes:
        fed: Whether anything was returned.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        self.tasks = tuple(tasks)
        self.fed = False
        self._sums = LossSums(len(self.tasks), device)

    def add(self, outputs: Any) -> None:
        """Add one batch's :class:`TaskLosses`, or dict of means keyed by task; ignore anything else."""
        if isinstance(outputs, TaskLosses) and self.tasks:
            if outputs.sums.shape != (len(self.tasks),):
                raise UserError(
                    f"`validation_step` must return TaskLosses of {len(self.tasks)} tasks, one each for "
                    f"{', '.join(self.tasks)}; got sums of shape {tuple(outputs.sums.shape)}."
                )
            self._sums.add(outputs)
        elif isinstance(outputs, Mapping) and outputs and set(outputs) <= set(self.tasks):
            for task, value in outputs.items():
                mean = torch.as_tensor(value).reshape(1)
                self._sums.add(TaskLosses(mean, torch.ones_like(mean)), self.tasks.index(task))
        else:
            return
        self.fed = True

    def measured(self, strategy: Any) -> MeasuredLosses:
        """Return the losses over all ranks; costs one all-reduce."""
        return self._sums.measured(strategy)


class MonitoredKeys:
    """Finds task losses among logged metrics by a key pattern.

    Args:
        monitor: key with ``{task}`` in it, such as ``val_loss/{task}``.

    Raises:
        ValueError: if the pattern has no ``{task}``.
    """

    def __init__(self, monitor: str) -> None:
        if monitor.count("{task}") != 1:
            raise UserError(f"`monitor` must hold '{{task}}' once, such as 'val_loss/{{task}}'; got {monitor!r}.")
        self.monitor = monitor
        before, after = (re.escape(part) for part in monitor.split("{task}"))
        self._pattern = re.compile(f"{before}(?P<task>.+){after}")

    def learn(self, metrics: Mapping[str, Tensor]) -> list[str]:
        """Return the task names that match, in logged order; a summary such as ``combined`` is none."""
        return [name for name in self._matching(metrics) if not is_summary(name)]

    def summaries(self, metrics: Mapping[str, Tensor]) -> list[str]:
        """Return the keys that match and whose name is rather that of a summary of the tasks."""
        return [self.monitor.format(task=name) for name in self._matching(metrics) if is_summary(name)]

    def _matching(self, metrics: Mapping[str, Tensor]) -> list[str]:
        matches = (self._pattern.fullmatch(key) for key in plain_keys(metrics))
        return [match["task"] for match in matches if match and not match["task"].startswith("dataloader_idx_")]

    def find(self, metrics: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, str]:
        """Return the logged key of every task that has one; unnamed loader keys are taken in loader order."""
        named = {LOADER_SUFFIX.sub("", key): key for key in reversed(list(metrics))}
        found = {}
        for index, task in enumerate(tasks):
            numbered = self.monitor.format(task=f"dataloader_idx_{index}")
            key = named.get(self.monitor.format(task=task), numbered)
            if key in metrics:
                found[task] = key
        return found

    def read(
        self, metrics: Mapping[str, Tensor], tasks: Sequence[str], stale: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return ``(losses, present)``, both ``[K]``.

        Args:
            metrics: what is logged now.
            tasks: names, in task order.
            stale: what was logged before this pass; a value that is still the same object was not logged in it.
        """
        found = self.find(metrics, tasks)
        fresh = {task: metrics[key] for task, key in found.items() if stale.get(key) is not metrics[key]}
        device = next((value.device for value in fresh.values()), None)
        nan = torch.tensor(torch.nan, dtype=torch.float64, device=float64_device(device))
        losses = [moved(fresh[task], nan).reshape(()) if task in fresh else nan for task in tasks]
        return torch.stack(losses), torch.tensor([task in fresh for task in tasks], device=nan.device)


def check_ranks_agree(trainer: L.Trainer, module: L.LightningModule, losses: Tensor) -> None:
    """Raise RuntimeError on every rank if the ranks read different losses: their weights would drift apart."""
    if trainer.world_size == 1:
        return
    everyone = module.all_gather(losses)
    if not torch.equal(everyone.nan_to_num(-1.0), everyone[:1].expand_as(everyone).nan_to_num(-1.0)):
        raise WrongUseError(
            "The ranks logged different validation losses, so their task weights would differ.",
            "Log them with self.log(..., sync_dist=True, batch_size=<tokens>), or return TaskLosses(sums, counts) "
            "from validation_step.",
        )


def measured_keys(
    monitored: MonitoredKeys,
    metrics: Mapping[str, Tensor],
    stale: Mapping[str, Tensor],
    tasks: Sequence[str],
    trainer: L.Trainer,
    module: L.LightningModule,
) -> MeasuredLosses:
    """Return what a module logged in a pass; the ranks must have logged the same.

    Raises:
        RuntimeError: The ranks logged different losses.
    """
    losses, present = monitored.read(metrics, tasks, stale)
    check_ranks_agree(trainer, module, losses)
    return MeasuredLosses(losses, present, torch.full_like(losses, torch.nan))
