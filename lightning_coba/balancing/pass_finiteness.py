from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_coba.balancing.pass_losses import MonitoredKeys, ReturnedLosses
from lightning_coba.lightning_internals import sanity_metrics


class PassFiniteness:
    """Follows which tasks' validation losses are finite, pass by pass, whichever way a module gives them.

    Args:
        monitor: Key pattern of logged losses.

    Attributes:
        never_finite: Task whose loss was not finite in any pass -> optimizer step of the first one.
    """

    def __init__(self, monitor: str) -> None:
        self.never_finite: dict[str, int] = {}
        self._finite: set[str] = set()
        self._monitored = MonitoredKeys(monitor)
        self._returned: ReturnedLosses | None = None
        self._stale: dict[str, Tensor] = {}

    def begin(self, trainer: L.Trainer, module: L.LightningModule, tasks: Sequence[str]) -> None:
        """Begin to listen to a pass."""
        self._returned = ReturnedLosses(tasks, module.device)
        self._stale = dict(trainer.callback_metrics)

    def add(self, outputs: Any) -> None:
        """Add what ``validation_step`` returned, where it returned task losses."""
        if self._returned is not None:
            self._returned.add(outputs)

    def end(self, trainer: L.Trainer) -> list[str]:
        """Return the tasks whose loss is not finite in this pass, and was before; alike on all ranks."""
        found = _over_ranks(self._losses(trainer), trainer)
        bad = [task for task, is_finite in found.items() if not is_finite]
        lost = [task for task in bad if task in self._finite]
        self._finite.update(set(found) - set(bad))
        for task in self._finite:
            self.never_finite.pop(task, None)
        if not trainer.sanity_checking:
            for task in set(bad) - self._finite:
                self.never_finite.setdefault(task, trainer.global_step)
        return lost

    def _losses(self, trainer: L.Trainer) -> dict[str, bool]:
        """Return, for each task that this pass measured, whether its loss is finite."""
        returned, self._returned = self._returned, None
        assert returned is not None
        # A rank without a batch of its own joins the others' reduction with zeros.
        if trainer.strategy.reduce_boolean_decision(returned.fed, all=False):
            measured = returned.measured(trainer.strategy)
            flags = torch.stack([measured.present, measured.losses.isfinite()]).tolist()
            return {task: finite for task, present, finite in zip(returned.tasks, *flags, strict=True) if present}
        logged = sanity_metrics(trainer) if trainer.sanity_checking else trainer.callback_metrics
        tasks = returned.tasks or self._monitored.learn(logged)
        keys = self._monitored.find(logged, tasks)
        fresh = {task: logged[key] for task, key in keys.items() if self._stale.get(key) is not logged[key]}
        if not fresh:
            return {}
        return {task: bool(value.detach().isfinite()) for task, value in fresh.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what the passes so far have shown."""
        return {"finite": sorted(self._finite), "never_finite": dict(self.never_finite)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._finite, self.never_finite = set(state_dict["finite"]), dict(state_dict["never_finite"])


def _over_ranks(found: dict[str, bool], trainer: L.Trainer) -> dict[str, bool]:
    """Return what holds on all ranks: they may have logged different tasks, and different losses."""
    if trainer.world_size == 1:
        return found
    ranks: list[dict[str, bool]] = [{}] * trainer.world_size
    torch.distributed.all_gather_object(ranks, found)
    tasks = dict.fromkeys(task for rank in ranks for task in rank)
    return {task: all(rank.get(task, True) for rank in ranks) for task in tasks}
