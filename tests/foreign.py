"""A multitask module as somebody else would have written it, and small helpers to fit it. Imports nothing of ours."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

TASKS = ("a", "b", "c")
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "devices": 1,
}


def rows(num=24, seed=0):
    """Return (x, y): an easy target, a hard one, and pure noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 6, generator=generator)
    targets = [x.sum(dim=1), torch.sin(3 * x[:, 0]), torch.randn(num, generator=generator)]
    return TensorDataset(x, torch.stack(targets, dim=1))


def train_loader(batch_size=4, **options):
    return DataLoader(rows(24), batch_size=batch_size, **options)


def val_loader(batch_size=4):
    return DataLoader(rows(20, seed=1), batch_size=batch_size)  # 5 batches: more than Lightning's sanity pass of 2


class Foreign(L.LightningModule):
    """Three regression heads on one trunk; remembers (optimizer step, weights in force) of every batch."""

    def __init__(self, tasks=TASKS, dropout=0.0, steers=True):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout))
            self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in tasks})
        self.names = tuple(tasks)
        self.steers = steers
        self.in_force = []

    def losses(self, batch):
        x, y = batch
        hidden = self.trunk(x)
        return {t: (self.heads[t](hidden)[:, 0] - y[:, i]).square().mean() for i, t in enumerate(self.names)}

    def sums_and_counts(self, batch):
        """Return loss sums and counts; a row counts for task i where its i-th input is positive: unequally."""
        x, y = batch
        hidden = self.trunk(x)
        each = torch.stack([(self.heads[t](hidden)[:, 0] - y[:, i]).square() for i, t in enumerate(self.names)])
        mask = (x[:, : len(self.names)] > 0).T
        return (each * mask).sum(dim=1), mask.sum(dim=1)

    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        if not self.steers:
            return sum(losses.values()) / len(losses)
        self.in_force.append((self.global_step, self.task_weights.values.tolist()))
        return self.task_weights.combine(losses)

    def validation_step(self, batch, batch_idx):
        for task, loss in self.losses(batch).items():
            self.log(f"val_loss/{task}", loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)

    @torch.no_grad()
    def losses_on(self, loader):
        """Return the mean loss of each task over a loader with equal batches, ``[K]`` float64."""
        each = [torch.stack(list(self.losses(batch).values())) for batch in loader]
        return torch.stack(each).double().mean(dim=0)


class Stepping(Foreign):
    """The same with the one method that the step cadence asks for."""

    def task_losses(self, batch):
        return self.losses(batch)


def held_out(tasks=TASKS, num=12, batch_size=6):
    return {task: DataLoader(rows(num, seed=i + 2), batch_size=batch_size) for i, task in enumerate(tasks)}


def fit(module, *callbacks, train=None, val=None, ckpt_path=None, datamodule=None, **options):
    """Fit quietly on the CPU and return the Trainer."""
    trainer = L.Trainer(**{**QUIET, "max_epochs": 4, **options, "callbacks": list(callbacks)})
    if datamodule is not None:
        trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
        return trainer
    trainer.fit(module, train or train_loader(), val or val_loader(), ckpt_path=ckpt_path)
    return trainer


def parameters(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


#: Mark of test files whose runs are shorter than any warm-up, on purpose.
SHORT_RUNS = "ignore:.*records? (is|are) to come"
