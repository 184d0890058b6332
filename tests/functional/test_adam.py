import math

import numpy as np
import pytest
import torch

from lightning_coba.functional import adam_step

F64 = torch.float64
SETTINGS = [
    {"lr": 0.025},
    {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3},
    {"lr": 1e-4, "betas": (0.0, 0.5), "eps": 1e-12},
]


def gradients(num_steps, num_entries, seed=0):
    """Of every magnitude, with exact zeros."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(num_steps, num_entries)) * 10.0 ** rng.uniform(-6, 3, num_entries)
    values[rng.random(values.shape) < 0.05] = 0.0
    return torch.tensor(values)


def start(num_entries, count_dtype=F64):
    return (
        torch.linspace(-1, 2, num_entries, dtype=F64),
        torch.zeros(num_entries, dtype=F64),
        torch.zeros(num_entries, dtype=F64),
        torch.zeros(num_entries, dtype=count_dtype),
    )


def torch_adam(values, steps, active, setting):
    """Each entry as a parameter of its own, whose optimizer steps only where the entry is active; ``[T, K]``."""
    parameters = [torch.nn.Parameter(value.clone()) for value in values]
    optimizers = [torch.optim.Adam([parameter], **setting) for parameter in parameters]
    rows = []
    for gradient, mask in zip(steps, active, strict=True):
        for k in mask.nonzero().flatten().tolist():
            parameters[k].grad = gradient[k].clone()
            optimizers[k].step()
        rows.append(torch.stack([parameter.detach().clone() for parameter in parameters]))
    return torch.stack(rows)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("count_dtype", [F64, torch.int64])
@pytest.mark.parametrize("share_active", [1.0, 0.6])
def test_every_entry_is_a_parameter_of_torch_adam(setting, count_dtype, share_active):
    steps = gradients(200, 7)
    active = torch.rand(steps.shape, generator=torch.Generator().manual_seed(0)) < share_active
    state = start(7, count_dtype)
    wanted = torch_adam(state[0], steps, active, setting)
    rows = []
    for gradient, mask in zip(steps, active, strict=True):
        state = adam_step(state[0], gradient, *state[1:], **setting, active=None if share_active == 1 else mask)
        rows.append(state[0])
    np.testing.assert_allclose(torch.stack(rows), wanted, rtol=1e-14, atol=3e-15)
    assert state[3].tolist() == active.sum(0).tolist()
    assert state[3].dtype == count_dtype


def test_the_first_step_is_lr_against_the_gradient():
    state = start(3)
    value, *_ = adam_step(state[0], torch.tensor([5.0, -2e-3, 0.0], dtype=F64), *state[1:], lr=0.1)
    assert (value - state[0]).tolist() == pytest.approx([-0.1, 0.1, 0.0], rel=1e-5)


@pytest.mark.parametrize("hidden", [math.nan, math.inf, 1e300])
def test_an_inactive_entry_keeps_its_bits_whatever_its_gradient(hidden):
    before = adam_step(start(3)[0], torch.tensor([1.0, 2.0, 3.0], dtype=F64), *start(3)[1:], lr=0.1)
    active = torch.tensor([True, False, True])
    gradient = torch.tensor([1.0, hidden, 1.0], dtype=F64)
    after = adam_step(before[0], gradient, *before[1:], lr=0.1, active=active)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[1], new[1])
        assert bool((old != new)[active].all())
        assert bool(torch.isfinite(new).all())


def test_an_entry_without_any_step_and_without_activity_is_finite():
    state = start(2)
    nobody = torch.zeros(2, dtype=torch.bool)
    after = adam_step(state[0], torch.ones(2, dtype=F64), *state[1:], lr=0.1, active=nobody)
    for old, new in zip(state, after, strict=True):
        assert torch.equal(old, new)


def test_what_goes_in_is_left_as_it_was():
    arguments = (start(3)[0], gradients(1, 3)[0], *start(3)[1:])
    copies = [argument.clone() for argument in arguments]
    adam_step(*arguments, lr=0.1, active=torch.tensor([True, False, True]))
    for argument, copy in zip(arguments, copies, strict=True):
        assert torch.equal(argument, copy)
