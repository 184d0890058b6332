"""Held-out mini-batches for the step cadence, drawn statelessly and measured without leaving a trace."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_coba.balancing.loss_sums import LossSums, MeasuredLosses
from lightning_coba.data.stream import Stream
from lightning_coba.errors import UserError, WrongUseError
from lightning_coba.functional import TaskLosses, undisturbed

REFUSAL = (
    "`held_out` must be {task: DataLoader over a map-style dataset with a batch_size}; rows are indexed by (seed, i) "
    "and collated by that loader's collate_fn."
)


def held_out_loaders(given: Mapping[str, Any] | None, trainer: L.Trainer) -> Mapping[str, Any]:
    """Return task -> loader: what the callback was given, or what the datamodule has."""
    loaders: Mapping[str, Any] = trainer.datamodule.held_out_dataloaders() if given is None else given
    return loaders


class HeldOutStream:
    """Draw i holds ceil(B / K) rows of every task and is a pure function of (seed, i).

    Args:
        loaders: Task -> DataLoader over a map-style dataset; B is each loader's batch size.
        tasks: Names, in task order.
        seed: Seed of the row order.

    Attributes:
        streams: The rows of each task, one :class:`~lightning_coba.data.stream.Stream` named ``held_out/<task>`` each.
        num_draws: M, the draws after which every row of every task was seen.

    Raises:
        ValueError: A task has no loader, or a loader cannot be indexed.
    """

    def __init__(self, loaders: Mapping[str, Any], tasks: Sequence[str], seed: int) -> None:
        missing = [task for task in tasks if task not in loaders]
        if missing:
            raise UserError(f"{REFUSAL} There is none for {', '.join(missing)}.")
        self.tasks = tuple(tasks)
        self.loaders = [loaders[task] for task in tasks]
        for task, loader in zip(tasks, self.loaders, strict=True):
            indexable = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
            if not indexable or loader.batch_size is None or not len(loader.dataset):
                raise UserError(f"{REFUSAL} The one for {task!r} is {loader!r}.")
        self.streams = [
            Stream(f"held_out/{task}", len(loader.dataset), -(-loader.batch_size // len(self.loaders)), seed)
            for task, loader in zip(tasks, self.loaders, strict=True)
        ]
        self.num_draws = max(stream.num_batches for stream in self.streams)
        collate = self.loaders[0].collate_fn
        # A collate_fn whose batches may hold rows of several tasks says so. The first answer of the module's
        # task_losses then tells whether it can take them apart.
        self._mixes_tasks = all(loader.collate_fn is collate for loader in self.loaders)
        self._mixes_tasks &= bool(getattr(collate, "mixes_tasks", False))

    def draw(self, number: int) -> list[tuple[int, Tensor]]:
        """Return ``(task index, rows)`` of draw ``number``, counted from 0."""
        return [(task, stream.batch(number)) for task, stream in enumerate(self.streams)]

    def everything(self) -> list[tuple[int, Tensor]]:
        """Return every row of every task once, in batches of the loaders' sizes."""
        return [
            (task, rows)
            for task, loader in enumerate(self.loaders)
            for rows in torch.arange(len(loader.dataset)).split(loader.batch_size)
        ]

    def measure(
        self, batches: list[tuple[int, Tensor]], trainer: L.Trainer, module: L.LightningModule
    ) -> MeasuredLosses:
        """Return the losses over all ranks, one forward pass per batch, leaving module and random state untouched."""
        sums = LossSums(len(self.tasks), module.device)
        with undisturbed(module), torch.no_grad(), trainer.precision_plugin.val_step_context():
            for task, rows in batches:
                sums.add(self.loss(task, rows, trainer, module), task)
        return sums.measured(trainer.strategy)

    def measure_draw(self, number: int, trainer: L.Trainer, module: L.LightningModule) -> MeasuredLosses:
        """Return the same of draw ``number``, in one forward pass where a batch may hold rows of several tasks."""
        draw = self.draw(number)
        if self._mixes_tasks:
            losses = self._mixed_losses(draw, trainer, module)
            if isinstance(losses, TaskLosses):
                sums = LossSums(len(self.tasks), module.device)
                sums.add(losses)
                return sums.measured(trainer.strategy)
            self._mixes_tasks = False  # means of whatever rows: from now on each task by itself
        return self.measure(draw, trainer, module)

    def _mixed_losses(self, draw: list[tuple[int, Tensor]], trainer: L.Trainer, module: L.LightningModule) -> Any:
        """Return what the module makes of this rank's rows of all tasks in one batch."""
        rows = [self.loaders[task].dataset[int(i)] for task, drawn in draw for i in _share(drawn, trainer)]
        batch = self.loaders[0].collate_fn(rows or [self.loaders[0].dataset[0]])
        with undisturbed(module), torch.no_grad(), trainer.precision_plugin.val_step_context():
            losses = module.task_losses(trainer.strategy.batch_to_device(batch))
        return losses if rows or not isinstance(losses, TaskLosses) else _nothing(losses)

    def loss(self, task: int, rows: Tensor, trainer: L.Trainer, module: L.LightningModule) -> TaskLosses:
        """Return a task's losses ``[1]``, with their graph, on this rank's share of some rows; 0 where it has none."""
        mine = _share(rows, trainer)
        # Sharded models need every rank in every forward: one without rows joins and counts nothing.
        loader = self.loaders[task]
        batch = loader.collate_fn([loader.dataset[int(i)] for i in (mine if len(mine) else rows[:1])])
        losses = module.task_losses(trainer.strategy.batch_to_device(batch))
        if isinstance(losses, TaskLosses):
            own = _mapped(losses, lambda field: field[..., task : task + 1])
        else:
            if self.tasks[task] not in losses:
                raise WrongUseError(
                    f"`task_losses` gave no loss of {self.tasks[task]!r} on its held-out rows, only of "
                    f"{', '.join(map(repr, losses)) or 'nothing'}.",
                    "Let it return {task: loss} under the names of the tasks.",
                )
            mean = losses[self.tasks[task]].reshape(1)
            own = TaskLosses(mean, torch.ones_like(mean))
        return own if len(mine) else _nothing(own)


def _share(rows: Tensor, trainer: L.Trainer) -> Tensor:
    """Return the rows of this rank."""
    return rows[trainer.global_rank :: trainer.world_size]


def _nothing(losses: TaskLosses) -> TaskLosses:
    return _mapped(losses, lambda field: field * 0)


def _mapped(losses: TaskLosses, change: Callable[[Tensor], Tensor]) -> TaskLosses:
    squares, rows = (None if field is None else change(field) for field in (losses.squares, losses.rows))
    return TaskLosses(change(losses.sums), change(losses.counts), squares, rows)
