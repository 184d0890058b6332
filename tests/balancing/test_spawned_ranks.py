"""Ranks that a strategy spawns or forks end with the fit; the process that called `fit` goes on with what they held."""

import pytest
import torch
from foreign import TASKS, Foreign, fit, held_out, train_loader, val_loader

from lightning_coba import ConvergenceBalancer, TaskLosses
from lightning_coba.callbacks import StepTimer

COBA = {"window_records": 3, "warmup_records": 1}


class Counting(Foreign):
    task_names = TASKS

    def task_losses(self, batch):
        return TaskLosses(*self.sums_and_counts(batch))

    def validation_step(self, batch, batch_idx):
        return self.task_losses(batch)


def trained(batch_size, **options):
    """Fit with two balancers, one for each cadence; return the module and what was given to the Trainer."""
    balancers = (
        ConvergenceBalancer(**COBA),
        ConvergenceBalancer(every_n_steps=2, held_out=held_out(), attribute="observer", **COBA),
    )
    module, timer = Counting(), StepTimer()
    train, val = train_loader(batch_size), val_loader(batch_size)
    trainer = fit(module, *balancers, timer, train=train, val=val, max_epochs=8, **options)
    return module, balancers, timer, trainer


@pytest.mark.filterwarnings("ignore:.*never used `self.observer`")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("strategy", [pytest.param("ddp_spawn", marks=pytest.mark.slow), "ddp_fork"])
def test_callbacks_and_weights_are_those_of_one_process(strategy):
    alone, expected, _, _ = trained(batch_size=24)
    module, balancers, timer, trainer = trained(batch_size=12, devices=2, strategy=strategy)
    for here, there in zip(balancers, expected, strict=True):
        assert here.history.keys() == there.history.keys()
        assert here.history["step"] == there.history["step"]
        for key in ("loss", "ratio", "slope", "weight", "divergence_factor"):
            torch.testing.assert_close(here.history[key], there.history[key], rtol=1e-3, atol=1e-5, equal_nan=True)
        assert here.explain().splitlines()[0] == there.explain().splitlines()[0]
        assert here.num_records == there.num_records > 0
        torch.testing.assert_close(
            trainer.callback_metrics[f"balance{'' if here is balancers[0] else '/observer'}/weight/a"].double(),
            here.history["weight"][-1, 0].double(),
        )
    # In force at the end: those of the last record but one, which the last step was made with.
    assert module.task_weights.tasks == TASKS
    assert module.task_weights.values.tolist() == pytest.approx(alone.task_weights.values.tolist(), abs=1e-5)
    assert module.task_weights.values.tolist() != [1 / 3] * 3
    assert timer.timing["steps"] == 8
    module.task_weights.combine({"a": torch.tensor(1.0)})  # goes on


@pytest.mark.filterwarnings("ignore:.*never used `self.observer`")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_second_fit_goes_on_with_the_records():
    module, balancers, _, _ = trained(batch_size=12, devices=2, strategy="ddp_fork")
    before = balancers[0].history["loss"]
    fit(module, *balancers, train=train_loader(24), val=val_loader(24), max_epochs=2)
    after = balancers[0].history["loss"]
    assert len(after) == len(before) + 2
    assert torch.equal(after[: len(before)], before)
