"""Where a validation pass's task losses come from: what the module returned, or what it logged."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_coba.balancers.base import float64_device
from lightning_coba.functional import TaskLosses, task_means
from lightning_coba.lightning_internals import sanity_metrics

LOADER_SUFFIX = re.compile(r"/dataloader_idx_\d+$")


class ReturnedLosses:
    """Accumulates the (sum, count) pairs that ``validation_step`` returns, reduced over ranks once a pass.

    Args:
        tasks: names, in task order.
        device: where the sums live; float64.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        self.tasks = tuple(tasks)
        self.totals = torch.zeros(2, len(self.tasks), dtype=torch.float64, device=device)
        self.fed = False

    def add(self, outputs: Any) -> None:
        """Add one batch's :class:`TaskLosses`, or dict of means keyed by task; ignore anything else."""
        if isinstance(outputs, TaskLosses) and self.tasks:
            if outputs.sums.shape != (len(self.tasks),):
                raise ValueError(
                    f"`validation_step` must return TaskLosses of {len(self.tasks)} tasks, one each for "
                    f"{', '.join(self.tasks)}; got sums of shape {tuple(outputs.sums.shape)}."
                )
            added = torch.stack([outputs.sums.detach().double(), outputs.counts.double()])
        elif isinstance(outputs, Mapping) and outputs and set(outputs) <= set(self.tasks):
            added = torch.zeros_like(self.totals)
            for task, mean in outputs.items():
                added[0, self.tasks.index(task)] = torch.as_tensor(mean).detach()
                added[1, self.tasks.index(task)] = 1
        else:
            return
        self.totals += added.to(self.totals.device)
        self.fed = True

    def losses(self, strategy: Any) -> tuple[Tensor, Tensor]:
        """Return ``(losses, present)``, both ``[K]``, over all ranks; costs one all-reduce of 2K numbers."""
        sums, counts = strategy.reduce(self.totals.clone(), reduce_op="sum")
        return task_means(TaskLosses(sums, counts)), counts > 0


class MonitoredKeys:
    """Finds task losses among logged metrics by a key pattern.

    Args:
        monitor: key with ``{task}`` in it, such as ``val_loss/{task}``.

    Raises:
        ValueError: if the pattern has no ``{task}``.
    """

    def __init__(self, monitor: str) -> None:
        if monitor.count("{task}") != 1:
            raise ValueError(f"`monitor` must hold '{{task}}' once, such as 'val_loss/{{task}}'; got {monitor!r}.")
        self.monitor = monitor
        before, after = (re.escape(part) for part in monitor.split("{task}"))
        self._pattern = re.compile(f"{before}(?P<task>.+){after}")

    def learn(self, metrics: Mapping[str, Tensor]) -> list[str]:
        """Return the task names that match, in logged order, without loader suffixes and step/epoch twins."""
        keys = dict.fromkeys(LOADER_SUFFIX.sub("", key) for key in metrics)
        matches = (self._pattern.fullmatch(key) for key in keys if not self._is_twin(key, keys))
        return [match["task"] for match in matches if match and not match["task"].startswith("dataloader_idx_")]

    @staticmethod
    def _is_twin(key: str, keys: Mapping[str, None]) -> bool:
        return any(key.endswith(end) and key.removesuffix(end) in keys for end in ("_step", "_epoch"))

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

        Raises:
            RuntimeError: if no task has a key at all; lists the keys that there are.
        """
        found = self.find(metrics, tasks)
        if not found:
            raise RuntimeError(
                f"`monitor={self.monitor!r}` matches no logged key for the tasks {', '.join(tasks)}. Logged: "
                f"{', '.join(metrics) or 'nothing'}. In validation_step write "
                f"self.log({self.monitor.format(task=tasks[0])!r}, loss), or set `monitor`."
            )
        fresh = {task: metrics[key] for task, key in found.items() if stale.get(key) is not metrics[key]}
        device = next((value.device for value in fresh.values()), None)
        nan = torch.tensor(torch.nan, dtype=torch.float64, device=device)
        losses = [fresh[task].detach().to(nan).reshape(()) if task in fresh else nan for task in tasks]
        return torch.stack(losses), torch.tensor([task in fresh for task in tasks], device=device)


def check_ranks_agree(trainer: L.Trainer, module: L.LightningModule, losses: Tensor) -> None:
    """Raise RuntimeError on every rank if the ranks read different losses: their weights would drift apart."""
    if trainer.world_size == 1:
        return
    everyone = module.all_gather(losses)
    if not torch.equal(everyone.nan_to_num(-1.0), everyone[:1].expand_as(everyone).nan_to_num(-1.0)):
        raise RuntimeError(
            "The ranks logged different validation losses, so their task weights would differ. Log them with "
            "self.log(..., sync_dist=True, batch_size=<tokens>), or return TaskLosses(sums, counts) from "
            "validation_step."
        )


class ValidationPass:
    """One pass, from its start to its end: whichever of the two sources the module feeds.

    Args:
        trainer: at the start of the pass.
        module: that is validated.
        tasks: names as far as they are known by then.
        monitored: the key pattern.
    """

    def __init__(
        self, trainer: L.Trainer, module: L.LightningModule, tasks: Sequence[str], monitored: MonitoredKeys
    ) -> None:
        self.monitored = monitored
        self.returned = ReturnedLosses(tasks, float64_device(module.device))
        self._stale = dict(trainer.callback_metrics)

    def metrics(self, trainer: L.Trainer) -> Mapping[str, Tensor]:
        """Return what is logged by the end of the pass."""
        return sanity_metrics(trainer) if trainer.sanity_checking else trainer.callback_metrics

    def visible(self, trainer: L.Trainer, tasks: Sequence[str]) -> bool:
        """Return whether the module showed any task's loss; every rank has to ask."""
        # A rank without a batch of its own joins the others' reduction with zeros.
        self.returned.fed = trainer.strategy.reduce_boolean_decision(self.returned.fed, all=False)
        return self.returned.fed or bool(tasks and self.monitored.find(self.metrics(trainer), tasks))

    def losses(self, trainer: L.Trainer, module: L.LightningModule, tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ``(losses, present)``, both ``[K]`` float64, the same on all ranks."""
        if self.returned.fed:
            return self.returned.losses(trainer.strategy)
        losses, present = self.monitored.read(self.metrics(trainer), tasks, self._stale)
        check_ranks_agree(trainer, module, losses)
        return losses, present
