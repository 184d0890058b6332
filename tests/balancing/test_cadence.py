"""When a record is taken and when it acts: mid-epoch passes, accumulation windows, epochs without a pass."""

import pytest
import torch
from foreign import QUIET, SHORT_RUNS, Foreign, fit, train_loader, val_loader
from lightning import Trainer

from lightning_coba import ConvergenceBalancer, replay
from lightning_coba.balancers import CoBa
from lightning_coba.balancing.run_length import expected_records

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}


def weights_by_step(module):
    """Return {optimizer step: weights}; fails if they moved inside an accumulation window."""
    by_step = {}
    for step, weights in module.in_force:
        assert by_step.setdefault(step, weights) == weights, f"the weights moved inside the window of step {step}"
    return by_step


@pytest.mark.parametrize(("interval", "steps"), [(0.5, [3, 6, 9, 12]), (2, [2, 4, 6, 8, 10, 12])])
def test_passes_inside_an_epoch_are_records(interval, steps):
    module, callback = Foreign(), ConvergenceBalancer(**COBA)
    fit(module, callback, max_epochs=2, val_check_interval=interval)
    assert callback.history["step"] == steps
    weights = callback.history["weight"].tolist()
    assert len({tuple(w) for w in weights}) > 2  # they move
    for step, in_force in weights_by_step(module).items():
        taken = [w for s, w in zip(steps, weights, strict=True) if s <= step]
        assert in_force == (taken[-1] if taken else [1 / 3] * 3), step


def test_batches_not_epochs_count_without_check_val_every_n_epoch():
    callback = ConvergenceBalancer(**COBA)
    fit(Foreign(), callback, max_epochs=2, val_check_interval=4, check_val_every_n_epoch=None)
    assert callback.history["step"] == [4, 8, 12]


def test_epochs_without_a_pass_have_no_record():
    callback = ConvergenceBalancer(**COBA)
    fit(Foreign(), callback, max_epochs=6, check_val_every_n_epoch=2)
    assert callback.history["step"] == [12, 24, 36]


def test_weights_stay_through_a_window_in_which_a_pass_falls():
    module, callback = Foreign(), ConvergenceBalancer(**COBA)
    fit(module, callback, train=train_loader(2), max_epochs=2, val_check_interval=3, accumulate_grad_batches=4)
    # Passes after batches 3, 6, 9 and 12 of an epoch of 12; the optimizer steps after batches 4, 8 and 12.
    # The pass after batch 3 sees step 0, the baseline's own parameters; the one of epoch 2 sees step 3 again.
    assert callback.history["step"] == [1, 2, 3, 4, 5, 6]
    by_step = weights_by_step(module)
    records = callback.history["weight"].tolist()
    # The record inside the window of step s (taken at s) and the one at its end both act from s + 1.
    assert by_step == {
        0: [1 / 3] * 3,
        1: [1 / 3] * 3,
        2: records[0],
        3: records[2],
        4: records[2],
        5: records[3],
    }
    assert records[3] != records[2]


def test_several_passes_at_one_optimizer_step_are_one_record():
    module, callback = Foreign(), ConvergenceBalancer(**COBA)
    fit(module, callback, train=train_loader(2), max_epochs=4, val_check_interval=2, accumulate_grad_batches=8)
    # 12 batches an epoch, steps after 8 and 12: passes after 2, 4, 6 | 8, 10 | 12.
    # Three passes saw step 0, the baseline's own parameters: no record.
    assert callback.history["step"] == list(range(1, 9))
    first = callback.history["loss"][0] / callback.history["ratio"][0]
    weights_by_step(module)
    torch.testing.assert_close(
        callback.history["weight"], replay(CoBa(**COBA), callback.history["loss"], initial=first)
    )


class Asking(ConvergenceBalancer):
    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self.expected = expected_records(trainer, self.every_n_steps)


GRID = [
    {"train": train_loader(24 // batches), **length, "accumulate_grad_batches": accumulate, **passes}
    for batches in (6, 8)
    for length in ({"max_epochs": 3}, {"max_steps": 11, "max_epochs": -1})
    for accumulate in (1, 3)
    for passes in (
        {},
        {"val_check_interval": 0.4},
        {"val_check_interval": 5},
        {"val_check_interval": 2, "check_val_every_n_epoch": 2},
        {"val_check_interval": 5, "check_val_every_n_epoch": None},
    )
]


@pytest.mark.parametrize("options", [*GRID, {"limit_train_batches": 3}, {"limit_val_batches": 0}])
def test_expected_records_is_what_comes(options):
    callback = Asking(tasks=["a", "b", "c"], **COBA)
    fit(Foreign(), callback, **options)
    assert callback.expected == len(callback.history["record"])


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("steps", [6, 8])
def test_expected_records_of_a_resumed_run_are_those_to_come(steps, tmp_path):
    options = {"val_check_interval": 2, "train": train_loader()}
    trainer = fit(Foreign(), Asking(tasks=["a", "b", "c"], **COBA), max_steps=steps, max_epochs=-1, **options)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    callback = Asking(tasks=["a", "b", "c"], **COBA)
    fit(Foreign(), callback, ckpt_path=tmp_path / "last.ckpt", max_epochs=3, **options)
    assert callback.expected == len(callback.history["record"]) - steps // 2


def test_sanity_checking_validate_and_test_are_no_records():
    class Tested(Foreign):
        test_step = Foreign.validation_step

    module, callback = Tested(), ConvergenceBalancer(**COBA)
    trainer = fit(module, callback, max_epochs=3)
    before = callback.history["step"], callback.history["weight"]
    trainer.validate(module, val_loader(), verbose=False)
    trainer.test(module, val_loader(), verbose=False)
    assert callback.history["step"] == [6, 12, 18]
    assert callback.history["weight"].equal(before[1])


def test_validate_before_any_fit_leaves_no_trace():
    module, callback = Foreign(), ConvergenceBalancer(**COBA)
    trainer = Trainer(**QUIET, callbacks=[callback], max_epochs=3)
    trainer.validate(module, val_loader(), verbose=False)
    assert callback.tasks == ()
    trainer.fit(module, train_loader(), val_loader())
    assert callback.history["step"] == [6, 12, 18]
