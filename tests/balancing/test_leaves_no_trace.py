"""What a fit changes outside of the callback is as it was when the fit has ended, whichever way it ended."""

import lightning as L
import pytest
import torch
from foreign import QUIET, SHORT_RUNS, TASKS, Foreign, Stepping, held_out, train_loader, val_loader

from lightning_coba import ConvergenceBalancer, TaskBalancing
from lightning_coba.balancers import GradNorm

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}


class Watch(L.Callback):
    """Remembers what holds within the fit; counts the batches of sanity passes."""

    def __init__(self):
        self.sanity_batches, self.within = 0, []

    def on_validation_batch_end(self, trainer, *_):
        self.sanity_batches += trainer.sanity_checking

    def on_train_batch_end(self, trainer, *_):
        self.within.append((trainer.num_sanity_val_steps, torch._functorch.config.donated_buffer))


def trainer_of(*callbacks, **options):
    return L.Trainer(**{**QUIET, "max_epochs": 1, **options, "callbacks": list(callbacks)})


def fit(trainer, module):
    trainer.fit(module, train_loader(), val_loader())


@pytest.mark.parametrize("steps", [2, 1, 0, -1])
def test_the_sanity_pass_is_as_long_as_it_was(steps):
    balancers = ConvergenceBalancer(**COBA), ConvergenceBalancer(attribute="others", **COBA)
    watch = Watch()
    trainer = trainer_of(*balancers, watch, num_sanity_val_steps=steps)
    before = trainer.num_sanity_val_steps
    with pytest.warns(UserWarning, match="never used `self.others`"):
        fit(trainer, Foreign())
    assert trainer.num_sanity_val_steps == before
    assert watch.sanity_batches == (5 if steps else 0)


def test_a_second_fit_and_a_validation_of_the_same_trainer_have_it_too():
    callback, watch = ConvergenceBalancer(**COBA), Watch()
    trainer = trainer_of(callback, watch)
    module = Foreign()
    fit(trainer, module)
    trainer.validate(module, val_loader(), verbose=False)
    assert trainer.num_sanity_val_steps == 2
    trainer.fit_loop.max_epochs = 2
    fit(trainer, module)  # its baseline is there already
    assert watch.sanity_batches == 5 + 2
    callback.reset()
    trainer.fit_loop.max_epochs = 3
    fit(trainer, module)
    assert watch.sanity_batches == 5 + 2 + 5
    assert trainer.num_sanity_val_steps == 2


class Failing(Stepping):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if batch_idx < 2 else loss / "nothing"


def test_an_exception_leaves_no_trace_either():
    trainer = trainer_of(ConvergenceBalancer(**COBA))
    with pytest.raises(TypeError):
        fit(trainer, Failing())
    assert trainer.num_sanity_val_steps == 2


def test_an_exception_in_the_setup_of_another_callback_leaves_no_trace():
    late = ConvergenceBalancer(every_n_steps=1, held_out=held_out(), attribute="others", **COBA)
    trainer = trainer_of(ConvergenceBalancer(**COBA), late)
    with pytest.raises(ValueError, match="has no `task_losses`"):
        fit(trainer, Foreign())
    assert trainer.num_sanity_val_steps == 2


@pytest.mark.parametrize("module", [Stepping, Failing])
def test_graphs_may_be_freed_again_after_a_fit_on_gradients(module):
    glue = {"tasks": TASKS, "parameters": "trunk"}
    watch = Watch()
    trainer = trainer_of(TaskBalancing(GradNorm(), **glue), watch)
    assert torch._functorch.config.donated_buffer
    try:
        fit(trainer, module())
    except TypeError:
        assert module is Failing
    assert {within for _, within in watch.within} == {False}
    assert torch._functorch.config.donated_buffer
