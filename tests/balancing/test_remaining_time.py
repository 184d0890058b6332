"""What is left of a fit, by a clock that is set by hand."""

import lightning as L
import pytest
from foreign import QUIET, SHORT_RUNS, Foreign, train_loader, val_loader

from lightning_coba.balancing.remaining_time import RemainingTime

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)


class Watched(L.Callback):
    """A step takes 10 seconds, a validation batch 3."""

    def __init__(self):
        self.now, self.batches, self.left = 0.0, 0, {}
        self.remaining = RemainingTime(lambda: self.now)

    def on_train_start(self, trainer, pl_module):
        self.remaining.begin_training(trainer)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.now += 10
        self.remaining.end_step(trainer)
        self.left[trainer.global_step] = self.remaining.seconds

    def on_validation_start(self, trainer, pl_module):
        self.batches = 0
        self.remaining.begin_pass()

    def on_validation_batch_end(self, trainer, pl_module, *_):
        self.now += 3
        self.batches += 1

    def on_validation_end(self, trainer, pl_module):
        self.remaining.end_pass(trainer, self.batches)


@pytest.mark.parametrize("sanity", [0, 1, -1])
def test_what_is_left_holds_the_validation_passes_to_come(sanity):
    watched = Watched()
    options = {"max_steps": 6, "max_epochs": -1, "val_check_interval": 2, "num_sanity_val_steps": sanity}
    trainer = L.Trainer(**QUIET | options, callbacks=[watched])
    trainer.fit(Foreign(steers=False), train_loader(), val_loader())
    one_pass = 3 * sum(trainer.num_val_batches)
    # Before anything was validated, nothing is known of it.
    assert watched.left[1] == 5 * 10 + 3 * one_pass * (sanity != 0)
    assert watched.left[3] == 3 * 10 + 2 * one_pass
    assert watched.left[5] == 10 + one_pass


def test_a_fit_without_an_end_has_nothing_to_say():
    watched = Watched()
    options = {"max_steps": -1, "max_epochs": -1, "limit_val_batches": 0}
    trainer = L.Trainer(**QUIET | options, callbacks=[watched])

    class Stopping(Foreign):
        def on_train_batch_end(self, *_):
            self.trainer.should_stop = True

    trainer.fit(Stopping(steers=False), train_loader(), val_loader())
    assert watched.left[1] is None
