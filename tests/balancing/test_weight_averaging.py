"""Lightning's WeightAveraging beside a balancer: it averages the model, and leaves the weights alone."""

import pytest
import torch
from foreign import SHORT_RUNS, Foreign, fit, parameters
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from lightning_coba import ConvergenceBalancer

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}


class WithBuffers(Foreign):
    """Has a buffer behind the weights: whoever averages by position must not mistake one for the other."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def losses(self, batch):
        return super().losses((self.norm(batch[0]), batch[1]))


@pytest.mark.parametrize("averaging_first", [True, False])
@pytest.mark.parametrize("tasks", [["a", "b", "c"], None], ids=["named", "learned"])
def test_the_model_is_averaged_and_the_weights_are_not(averaging_first, tasks):
    module, balancer, averaging = WithBuffers(), ConvergenceBalancer(tasks, **COBA), WeightAveraging()
    callbacks = [averaging, balancer] if averaging_first else [balancer, averaging]
    fit(module, *callbacks, max_epochs=3)
    # Of the last step: the record of the last pass never came to act.
    assert module.task_weights.values.tolist() == module.in_force[-1][1] == balancer.history["weight"][1].tolist()
    assert balancer.history["weight"].std(dim=0).max() > 1e-3  # an average would be another one

    plain = WithBuffers()
    fit(plain, ConvergenceBalancer(tasks, **COBA), max_epochs=3)
    assert not torch.allclose(parameters(module), parameters(plain), rtol=1e-3)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("averaging_first", [True, False])
def test_a_run_resumes_with_both(averaging_first, tmp_path):
    def run(epochs, ckpt_path=None):
        module, pair = WithBuffers(), [ConvergenceBalancer(**COBA), WeightAveraging()]
        callbacks = pair[::-1] if averaging_first else pair
        trainer = fit(module, *callbacks, max_epochs=epochs, ckpt_path=ckpt_path)
        return trainer, pair[0].history["step"]

    trainer, _ = run(2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert run(3, tmp_path / "last.ckpt")[1] == [6, 12, 18]
