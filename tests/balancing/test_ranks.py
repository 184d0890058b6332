"""Two real ranks (gloo): the same weights on both, and those of one process that sees every row."""

import lightning as L
import pytest
import torch
from foreign import TASKS, Foreign, fit, held_out, parameters, train_loader, val_loader

from lightning_coba import ConvergenceBalancer, TaskLosses

COBA = {"window_records": 3, "warmup_records": 1}
TWO_RANKS = {"devices": 2, "strategy": "ddp_spawn"}


class Counting(Foreign):
    """Returns sums and counts; a row counts for task i where its i-th input is positive, so ranks count unequally."""

    task_names = TASKS

    def task_losses(self, batch):
        return TaskLosses(*self.sums_and_counts(batch))

    def validation_step(self, batch, batch_idx):
        return self.task_losses(batch)


class Report(L.Callback):
    """Leaves what a rank has seen in a file: the processes end with the fit."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        balancers = [c for c in trainer.callbacks if isinstance(c, ConvergenceBalancer)]
        report = {
            "records": torch.cat([c.history["weight"] for c in balancers]),
            "losses": torch.cat([c.history["loss"] for c in balancers]),
            "in_force": torch.tensor([weights for _, weights in pl_module.in_force]),
            "parameters": parameters(pl_module),
        }
        torch.save(report, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def run(folder, batch_size, **options):
    balancers = (
        ConvergenceBalancer(**COBA),
        ConvergenceBalancer(every_n_steps=2, held_out=held_out(), attribute="observer", **COBA),
    )
    train, val = train_loader(batch_size), val_loader(batch_size)
    fit(Counting(), *balancers, Report(folder), train=train, val=val, max_epochs=8, **options)


@pytest.mark.filterwarnings("ignore:.*never used `self.observer`")
def test_both_ranks_have_the_weights_of_one_process(tmp_path):
    run(tmp_path, batch_size=24)
    run(tmp_path, batch_size=12, **TWO_RANKS)  # all rows in every step: Lightning shuffles them over the ranks
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for key in ("records", "losses", "in_force", "parameters"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(first[key], alone[key], rtol=1e-4, atol=1e-6, equal_nan=True)
    assert len(first["records"]) == 8 + 4
    assert not torch.allclose(first["in_force"][-1], first["in_force"][0], atol=1e-3)


def test_keys_logged_by_each_rank_for_itself_are_refused():
    with pytest.raises(Exception, match=r"The ranks logged different validation losses.*\s.*sync_dist=True"):
        fit(Foreign(), ConvergenceBalancer(**COBA), **TWO_RANKS, max_epochs=3)


class Tamper(L.Callback):
    """Change what the balancer of one rank remembers, as a fault in memory or a rank's own random numbers would."""

    def __init__(self, rank):
        self.rank = rank

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 4 and trainer.global_rank == self.rank:
            [balancer] = [c for c in trainer.callbacks if isinstance(c, ConvergenceBalancer)]
            saved = balancer.state_dict()
            saved["recorder"]["state"]["ratios"].mul_(torch.tensor([[1.0], [1.5], [3.0]]))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("cadence", ["passes", "steps"])
def test_weights_that_differ_between_ranks_are_an_error_that_names_them(cadence):
    options = {"every_n_steps": 1, "held_out": held_out()} if cadence == "steps" else {}
    forked = {"devices": 2, "strategy": "ddp_fork", "log_every_n_steps": 1, "max_epochs": 8}
    said = r"The ranks' task weights differ \(rank 0: a 0\.\d+, b .*; rank 1: a 0\.\d+, "
    with pytest.raises(Exception, match=said):
        fit(Counting(), ConvergenceBalancer(**COBA, **options), Tamper(1), **forked)
    fit(Counting(), ConvergenceBalancer(**COBA, **options), Tamper(2), **forked)  # nobody is rank 2
