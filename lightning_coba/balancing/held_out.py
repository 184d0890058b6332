"""Held-out mini-batches for the step cadence, drawn statelessly and measured without leaving a trace."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_coba.functional import TaskLosses, permutation_stream, task_means

REFUSAL = (
    "`held_out` must be {task: DataLoader over a map-style dataset with a batch_size}; rows are indexed by (seed, i) "
    "and collated by that loader's collate_fn."
)


class HeldOutStream:
    """Draw i holds ceil(B / K) rows of every task and is a pure function of (seed, i).

    Args:
        loaders: task -> DataLoader over a map-style dataset; B is each loader's batch size.
        tasks: names, in task order.
        seed: of the row order.

    Attributes:
        num_draws: M, the draws after which every row of every task was seen.

    Raises:
        ValueError: if a task has no loader, or a loader cannot be indexed.
    """

    def __init__(self, loaders: Mapping[str, Any], tasks: Sequence[str], seed: int) -> None:
        missing = [task for task in tasks if task not in loaders]
        if missing:
            raise ValueError(f"{REFUSAL} There is none for {', '.join(missing)}.")
        self.loaders = [loaders[task] for task in tasks]
        for task, loader in zip(tasks, self.loaders, strict=True):
            indexable = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
            if not indexable or loader.batch_size is None or not len(loader.dataset):
                raise ValueError(f"{REFUSAL} The one for {task!r} is {loader!r}.")
        self.seed = seed
        self.rows = [-(-loader.batch_size // len(self.loaders)) for loader in self.loaders]
        self.num_draws = max(-(-len(loader.dataset) // n) for loader, n in zip(self.loaders, self.rows, strict=True))

    def draw(self, number: int) -> list[tuple[int, Tensor]]:
        """Return ``(task index, rows)`` of draw ``number``, counted from 0."""
        return [
            (
                task,
                permutation_stream(len(loader.dataset), (self.seed, "held_out", task), number * rows, rows),
            )
            for task, (loader, rows) in enumerate(zip(self.loaders, self.rows, strict=True))
        ]

    def everything(self) -> list[tuple[int, Tensor]]:
        """Return every row of every task once, in batches of the loaders' sizes."""
        return [
            (task, rows)
            for task, loader in enumerate(self.loaders)
            for rows in torch.arange(len(loader.dataset)).split(loader.batch_size)
        ]

    def measure(
        self,
        batches: list[tuple[int, Tensor]],
        trainer: L.Trainer,
        module: L.LightningModule,
        tasks: Sequence[str],
    ) -> tuple[Tensor, Tensor]:
        """Return ``(losses, present)``, both ``[K]`` float64 and over all ranks, leaving module and RNG untouched."""
        totals = torch.zeros(2, len(tasks), dtype=torch.float64, device=module.device)
        with undisturbed(module), torch.no_grad(), trainer.precision_plugin.val_step_context():
            for task, rows in batches:
                totals[:, task] += self.loss(task, rows, trainer, module, tasks[task]).to(totals)
        return _means(totals, trainer)

    def measure_draw(
        self, number: int, trainer: L.Trainer, module: L.LightningModule, tasks: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Return the same of draw ``number``, in one forward pass where a batch may hold rows of several tasks."""
        draw = self.draw(number)
        if not self._mixes_tasks:
            return self.measure(draw, trainer, module, tasks)
        rows = [self.loaders[task].dataset[int(i)] for task, rows in draw for i in _share(rows, trainer)]
        own = bool(rows)  # a rank without a row joins and counts nothing, see `loss`
        rows = rows or [self.loaders[0].dataset[0]]
        with undisturbed(module), torch.no_grad(), trainer.precision_plugin.val_step_context():
            losses = module.task_losses(trainer.strategy.batch_to_device(self.loaders[0].collate_fn(rows)))
        if not isinstance(losses, TaskLosses):  # means of whatever rows: each task by itself
            return self.measure(draw, trainer, module, tasks)
        totals = torch.stack([losses.sums.double(), losses.counts.double()])
        return _means(totals if own else totals * 0, trainer)

    @property
    def _mixes_tasks(self) -> bool:
        """Whether one batch may hold rows of all tasks, which its collate_fn then says by ``mixes_tasks``."""
        collate = self.loaders[0].collate_fn
        return all(loader.collate_fn is collate for loader in self.loaders) and getattr(collate, "mixes_tasks", False)

    def loss(self, task: int, rows: Tensor, trainer: L.Trainer, module: L.LightningModule, name: str) -> Tensor:
        """Return (sum, count) of a task on this rank's share of some rows; (0, 0) where it has none."""
        mine = _share(rows, trainer)
        # Sharded models need every rank in every forward: one without rows joins and counts nothing.
        loader = self.loaders[task]
        batch = loader.collate_fn([loader.dataset[int(i)] for i in (mine if len(mine) else rows[:1])])
        losses = module.task_losses(trainer.strategy.batch_to_device(batch))
        own = _own(losses, task, name)
        return own if len(mine) else own * 0


def _share(rows: Tensor, trainer: L.Trainer) -> Tensor:
    """Return the rows of this rank."""
    return rows[trainer.global_rank :: trainer.world_size]


def _means(totals: Tensor, trainer: L.Trainer) -> tuple[Tensor, Tensor]:
    sums, counts = trainer.strategy.reduce(totals, reduce_op="sum")
    return task_means(TaskLosses(sums, counts)), counts > 0


def _own(losses: TaskLosses | Mapping[str, Tensor], index: int, task: str) -> Tensor:
    """Return (sum, count) of the one task that a batch was drawn for."""
    if isinstance(losses, TaskLosses):
        return torch.stack([losses.sums[index].double(), losses.counts[index].double()])
    mean = losses[task].double()
    return torch.stack([mean, torch.ones_like(mean)])


@contextmanager
def undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """Evaluate; restore each submodule's own training flag and the random state afterwards."""
    training = {child: child.training for child in module.modules()}
    with forked_rng(module):
        module.eval()
        try:
            yield
        finally:
            for child, flag in training.items():
                child.training = flag


def forked_rng(module: torch.nn.Module) -> AbstractContextManager[None]:
    """Restore the random state of the CPU and of the module's device afterwards."""
    devices = [module.device] if getattr(module.device, "type", "cpu") == "cuda" else []
    return torch.random.fork_rng(devices=devices)
