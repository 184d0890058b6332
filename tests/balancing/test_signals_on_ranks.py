"""Two real ranks (gloo): signals of a step are those of one process that sees every row, and so are updates."""

import lightning as L
import pytest
import torch
from foreign import TASKS, Stepping, fit, held_out, parameters, rows, train_loader
from spy import Spy

from lightning_coba import TaskBalancing, TaskLosses
from lightning_coba.balancers import MGDA
from lightning_coba.functional import StepTotals

SIGNALS = ("losses", "train_losses", "losses_after_step", "grad_norms", "gramian", "hypergradients")


class Exact(Stepping):
    """Sums and counts, exact over ranks; every step holds all 24 rows. Task i counts rows whose input i is positive."""

    def task_losses(self, batch):
        return TaskLosses(*self.sums_and_counts(batch))

    def training_step(self, batch, batch_idx):
        x, _ = rows(24).tensors
        totals = StepTotals.of((x[:, :3] > 0).sum(dim=0))
        return self.task_weights.combine(self.task_losses(batch), totals=totals) * self.trainer.world_size


class Report(L.Callback):
    """Leaves what a rank has seen in a file: the processes end with the fit."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        [callback] = [c for c in trainer.callbacks if isinstance(c, TaskBalancing)]
        report = {"parameters": parameters(pl_module), "weights": callback.history["weight"]}
        if isinstance(callback.balancer, Spy):
            report |= {name: callback.balancer.column(name) for name in SIGNALS}
        torch.save(report, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


@pytest.mark.parametrize("make", [lambda: Spy(SIGNALS), MGDA], ids=["signals", "gradients combined"])
def test_two_ranks_see_the_step_of_one_process(make, tmp_path):
    for batch_size, options in ((24, {}), (12, {"devices": 2, "strategy": "ddp_spawn"})):
        balancer = make()
        which = "trunk" if isinstance(balancer, Spy) else None
        callback = TaskBalancing(balancer, tasks=TASKS, held_out=held_out(), parameters=which)
        train = train_loader(batch_size)
        fit(Exact(), callback, Report(tmp_path), train=train, max_epochs=5, **options)
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert len(alone["weights"]) == 5
    for key in alone:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(first[key], alone[key], rtol=1e-4, atol=1e-6, equal_nan=True)
