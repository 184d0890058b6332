"""A callback that observes but does not steer leaves the run bit-identical to a run without it."""

import lightning as L
import pytest
import torch
from foreign import Stepping, fit, held_out, parameters, train_loader

from lightning_coba import TaskBalancing
from lightning_coba.balancers import CoBa

pytestmark = pytest.mark.filterwarnings("ignore:.*never used `self.task_weights`")


def trained(*callbacks, **options):
    L.seed_everything(3, verbose=False)
    module = Stepping(dropout=0.3, steers=False)
    fit(module, *callbacks, train=train_loader(shuffle=True), max_epochs=6, **options)
    return parameters(module)


def test_the_probe_notices_a_disturbed_random_state():
    class Disturbing(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            torch.rand(1)

    assert not trained().equal(trained(Disturbing()))


@pytest.mark.parametrize("sanity", [-1, 0, 2])
def test_validation_cadence(sanity):
    callback = TaskBalancing(CoBa())
    assert trained(callback, num_sanity_val_steps=sanity).equal(trained(num_sanity_val_steps=sanity))
    assert len(callback.history["step"]) == 6


def test_step_cadence():
    callback = TaskBalancing(CoBa(), every_n_steps=2, held_out=held_out())
    assert trained(callback).equal(trained())
    assert len(callback.history["step"]) == 18
