"""A look at a module leaves no trace."""

import pytest
import torch
from torch import nn

from lightning_coba.functional import undisturbed


def network():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[0].eval()  # somebody froze a submodule on purpose
    return model


@pytest.mark.parametrize("evaluate", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_flags_buffers_and_random_state_come_back(evaluate, fails):
    model, rows = network(), torch.randn(8, 3)
    flags = [child.training for child in model.modules()]
    buffers, state = [buffer.clone() for buffer in model.buffers()], torch.get_rng_state()
    try:
        with undisturbed(model, evaluate):
            assert [child.training for child in model.modules()] == ([False] * 4 if evaluate else flags)
            model(rows)
            model[1].running_mean.fill_(7.0)
            torch.rand(1)
            assert not torch.equal(state, torch.get_rng_state())
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert [child.training for child in model.modules()] == flags
    assert all(now.equal(before) for now, before in zip(model.buffers(), buffers, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_buffers_made_under_inference_mode_are_left_alone():
    model = network()
    with torch.inference_mode():
        model.register_buffer("cache", torch.ones(2))
    with undisturbed(model):
        pass
    assert model.cache.tolist() == [1, 1]


def test_a_module_without_parameters_is_on_the_cpu():
    with undisturbed(nn.Dropout()) as device:
        assert device == torch.device("cpu")
