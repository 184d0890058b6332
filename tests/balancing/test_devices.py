"""Losses from a device without float64, as Apple's MPS: they are moved to the CPU first and cast there."""

from types import SimpleNamespace

import pytest
import torch
from foreign import TASKS

from lightning_coba import TaskLosses
from lightning_coba.balancers.base import moved
from lightning_coba.balancing.loss_sums import LossSums
from lightning_coba.balancing.pass_losses import MonitoredKeys, ReturnedLosses


class OnMPS(torch.Tensor):
    """A tensor that refuses float64 as MPS does, until it is moved to the CPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        wanted = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype | torch.device)]
        if function is torch.Tensor.to and torch.device("cpu") in wanted:
            assert torch.float64 not in wanted, "a cast may come before the move"
            return args[0].as_subclass(torch.Tensor)
        if function is torch.Tensor.double or torch.float64 in wanted:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return super().__torch_function__(function, types, args, kwargs)


def on_mps(*values):
    return torch.tensor(values).as_subclass(OnMPS)


STRATEGY = SimpleNamespace(reduce=lambda totals, reduce_op: totals)


def test_the_stand_in_refuses_float64_as_mps_does():
    for cast in (torch.Tensor.double, lambda t: t.to(torch.float64), lambda t: (2 * t).double()):
        with pytest.raises(TypeError, match="doesn't support float64"):
            cast(on_mps(1.0))


def test_what_validation_returns_is_added_up():
    losses = TaskLosses(on_mps(2.0, 0.0, 9.0), on_mps(2, 0, 3), on_mps(*[[4.0, 0.0, 81.0]] * 3), on_mps(1, 0, 1))
    sums = LossSums(3, torch.device("mps"))
    sums.add(losses)
    sums.add(TaskLosses(on_mps(4.0), on_mps(1)), task=0)
    found = sums.measured(STRATEGY)
    assert found.losses.tolist() == [2.0, 0.0, 3.0]
    assert found.losses.dtype == torch.float64


def test_means_that_validation_returns_are_added_up():
    returned = ReturnedLosses(TASKS, torch.device("mps"))
    returned.add({"a": on_mps(1.5)[0], "c": 2.0})
    assert returned.measured(STRATEGY).losses.tolist() == [1.5, 0.0, 2.0]


def test_logged_losses_are_read():
    metrics = {f"val_loss/{task}": on_mps(1.5)[0] for task in TASKS}
    losses, present = MonitoredKeys("val_loss/{task}").read(metrics, TASKS, stale={})
    assert losses.tolist() == [1.5] * 3
    assert present.all()


def test_moved_takes_device_and_dtype():
    like = torch.zeros(1, dtype=torch.float64)
    assert moved(on_mps(1, 2), like).dtype == torch.float64
