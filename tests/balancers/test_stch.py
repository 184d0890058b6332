"""STCH: against torchjd, and preferences and references by task name."""

import pytest
import torch
from random_records import losses
from torchjd import scalarization

from lightning_coba.balancers import STCH, replay


def test_stch_is_that_of_torchjd():
    rows = losses(10, 3)
    for mu in (0.01, 1.0):
        expected = []
        for row in rows:
            leaf = row.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(scalarization.STCH(mu)(leaf), leaf)
            expected.append(gradient / gradient.sum())
        assert (replay(STCH(mu), train_losses=rows) - torch.stack(expected)).abs().max() < 1e-12


def test_stch_weighs_the_task_farthest_from_its_reference():
    rule = STCH(mu=0.5, preference={"b": 1.0, "a": 3.0}, reference={"a": 0.2, "b": 0.0}).for_tasks(["a", "b"])
    weights = replay(rule, train_losses=[[1.2, 2.0]])[-1]
    scores = torch.tensor([0.75 * (1.2 - 0.2), 0.25 * 2.0]).double() / 0.5
    expected = torch.tensor([0.75, 0.25]).double() * scores.exp()
    assert torch.allclose(weights, expected / expected.sum(), atol=1e-7)


@pytest.mark.parametrize("name", ["preference", "reference"])
def test_stch_names_what_does_not_fit(name):
    with pytest.raises(ValueError, match=rf"`STCH.{name}` must name every task once; got \['a'\]. The tasks are: a, b"):
        STCH(**{name: {"a": 1.0}}).for_tasks(["a", "b"])
    with pytest.raises(ValueError, match=rf"`STCH.{name}` must hold 2 numbers"):
        STCH(**{name: [1.0]}).init(2)
