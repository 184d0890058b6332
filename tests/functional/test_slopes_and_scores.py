import math

import numpy as np
import pytest
import torch

from lightning_coba.balancers import CoBa, replay
from lightning_coba.functional import (
    absolute_convergence_scores,
    divergence_factor,
    masked_slopes,
    relative_convergence_scores,
)

F64 = torch.float64


def everyone(*shape):
    return torch.ones(shape, dtype=torch.bool)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_slopes_are_those_of_polyfit(offset):
    rng = np.random.default_rng(0)
    x, y = offset + np.arange(30.0), rng.normal(size=(50, 30))
    mask = rng.random((50, 30)) < 0.5
    slopes, fitted = masked_slopes(torch.tensor(x), torch.tensor(y), torch.tensor(mask))
    assert fitted.all()
    for row in range(50):
        wanted = np.polyfit(x[mask[row]] - offset, y[row, mask[row]], 1)[0]
        assert float(slopes[row]) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_slopes_take_a_regressor_for_each_row():
    x = torch.tensor([[0.0, 1.0, 2.0], [0.0, 10.0, 20.0]], dtype=F64)
    y = torch.tensor([[0.0, 2.0, 4.0]], dtype=F64).expand(2, 3)
    slopes, _ = masked_slopes(x, y, everyone(2, 3))
    assert slopes.tolist() == pytest.approx([2.0, 0.2])


@pytest.mark.parametrize("hidden", [math.nan, math.inf, 1e300])
def test_masked_points_are_ignored_whatever_they_hold(hidden):
    y = torch.tensor([[1.0, hidden, 5.0], [hidden, 3.0, hidden], [hidden] * 3], dtype=F64)
    mask = torch.tensor([[True, False, True], [False, True, False], [False] * 3])
    slopes, fitted = masked_slopes(torch.arange(3, dtype=F64), y, mask)
    assert slopes.tolist() == [2.0, 0.0, 0.0]
    assert fitted.tolist() == [True, False, False]


def test_the_relative_score_is_its_formula():
    slopes = torch.tensor([-0.1, -0.3, 0.2], dtype=F64)
    wanted = np.exp(3 * np.array([-0.1, -0.3, 0.2]) / 0.6)
    scores = relative_convergence_scores(slopes, everyone(3))
    assert scores.tolist() == pytest.approx((wanted / wanted.sum()).tolist(), rel=1e-12)


def test_the_gain_of_the_relative_score_is_the_number_of_valid_tasks():
    slopes = torch.tensor([-0.1, 123.0, -0.3], dtype=F64)
    valid = torch.tensor([True, False, True])
    scores = relative_convergence_scores(slopes, valid)
    wanted = np.exp(2 * np.array([-0.1, -0.3]) / 0.4)
    assert scores[1] == 0
    assert scores[[0, 2]].tolist() == pytest.approx((wanted / wanted.sum()).tolist(), rel=1e-12)


def test_the_absolute_score_measures_each_task_against_its_own_records():
    history = torch.tensor([[-0.1, -0.2, -0.3], [5.0, 0.4, 0.2]], dtype=F64)
    recorded = torch.tensor([[True, True, True], [False, True, True]])
    scores = absolute_convergence_scores(history[:, 2], history, recorded, everyone(2))
    wanted = np.exp([-3 * -0.3 / 0.6, -2 * 0.2 / 0.6])
    assert scores.tolist() == pytest.approx((wanted / wanted.sum()).tolist(), rel=1e-12)


def test_the_divergence_factor_is_its_formula_and_is_not_clamped():
    peaks = torch.tensor([-0.5, 99.0, 0.1, -0.2], dtype=F64)
    recorded = torch.tensor([True, False, True, True])
    z = np.exp(-2.0 * 3 * np.array([-0.5, 0.1, -0.2]) / 0.8)
    for current, index in ((0, 0), (2, 1), (3, 2)):
        factor = divergence_factor(peaks, recorded, current, temperature=2.0)
        assert float(factor) == pytest.approx(3 * z[index] / z.sum(), rel=1e-12)
    assert divergence_factor(peaks, recorded, 0, temperature=2.0) > 1


def test_the_divergence_factor_does_not_overflow():
    peaks = torch.zeros(100_000, dtype=F64)
    peaks[0] = -1.0
    assert divergence_factor(peaks, everyone(100_000), 99_999, 5.0) == 0
    assert float(divergence_factor(peaks, everyone(100_000), 0, 5.0)) == pytest.approx(100_000)


def test_zero_denominators_give_uniform_scores_and_a_factor_of_one():
    zeros, valid = torch.zeros(3, dtype=F64), torch.tensor([True, True, False])
    assert relative_convergence_scores(zeros, valid).tolist() == [0.5, 0.5, 0.0]
    history = torch.zeros(3, 4, dtype=F64)
    assert absolute_convergence_scores(zeros, history, everyone(3, 4), valid).tolist() == [0.5, 0.5, 0.0]
    assert absolute_convergence_scores(zeros, history, ~everyone(3, 4), valid).tolist() == [0.5, 0.5, 0.0]
    assert divergence_factor(torch.zeros(5, dtype=F64), everyone(5), 4, 5.0) == 1
    assert divergence_factor(torch.zeros(1, dtype=F64), everyone(1), 0, 5.0) == 1


def test_scores_are_zero_where_no_task_is_valid():
    slopes = torch.tensor([1.0, math.nan], dtype=F64)
    assert relative_convergence_scores(slopes, ~everyone(2)).tolist() == [0.0, 0.0]
    history = slopes[:, None]
    assert absolute_convergence_scores(slopes, history, history == 1, ~everyone(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [1e-15, 1e-9])
def test_resolution_takes_rounding_noise_for_zero(size):
    slopes = size * torch.tensor([1.0, -1.0], dtype=F64)
    noise = size < 1e-12
    relative = relative_convergence_scores(slopes, everyone(2), resolution=1e-12)
    absolute = absolute_convergence_scores(slopes, slopes[:, None], everyone(2, 1), everyone(2), resolution=1e-12)
    assert (relative.tolist() == [0.5, 0.5]) is noise
    assert (absolute.tolist() == [0.5, 0.5]) is noise
    assert relative_convergence_scores(slopes, everyone(2))[0] > 0.5


def test_every_function_takes_arrays_as_it_takes_tensors():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(6, 40, generator=generator, dtype=F64)
    mask = torch.rand(6, 40, generator=generator) < 0.5
    valid = torch.tensor([True, False, True, True, True, False])
    for function, arguments in (
        (masked_slopes, (torch.arange(40, dtype=F64), y, mask)),
        (relative_convergence_scores, (y[:, 0], valid, 1e-12)),
        (absolute_convergence_scores, (y[:, 0], y, mask, valid, 1e-12)),
        (divergence_factor, (y[0], mask[0], 7, 5.0)),
    ):
        arrays = [value.numpy() if isinstance(value, torch.Tensor) else value for value in arguments]
        of_tensors, of_arrays = function(*arguments), function(*arrays)
        if function is not masked_slopes:
            of_tensors, of_arrays = (of_tensors,), (of_arrays,)
        for one, other in zip(of_tensors, of_arrays, strict=True):
            assert isinstance(one, torch.Tensor)
            assert not isinstance(other, torch.Tensor)
            np.testing.assert_allclose(other, one.numpy(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("options", [{"form": "paper"}, {"significance": 0.2}, {"form": "mftcoder"}])
def test_tensors_take_the_steps_that_arrays_take(options):
    """An update on the CPU computes in NumPy, on a device in tensors; here tensors take its steps on the CPU."""
    generator = torch.Generator().manual_seed(0)
    losses = torch.randn(1100, 4, generator=generator, dtype=F64).mul(0.03).cumsum(0).exp()
    present = torch.rand(1100, 4, generator=generator) < 0.7
    present[500:510] = False
    losses[600] = math.nan
    balancer = CoBa(8, 3, **options)
    state, weights = balancer.init(4), []
    for row, mask in zip(losses, present, strict=True):
        state = balancer._step(state, row, mask)
        assert all(isinstance(value, torch.Tensor) for value in state[1:])
        weights.append(state.weights)
    assert (torch.stack(weights) - replay(balancer, losses, present=present)).abs().max() < 1e-11


@pytest.mark.parametrize("size", [1e-310, 1e-305])
def test_tiny_denominators_do_not_overflow(size):
    slopes = size * torch.tensor([1.0, -1.0], dtype=F64)
    assert relative_convergence_scores(slopes, everyone(2)).tolist() == [0.5, 0.5]
    assert absolute_convergence_scores(slopes, slopes[:, None], everyone(2, 1), everyone(2)).tolist() == [0.5, 0.5]
    assert divergence_factor(slopes, everyone(2), 0, 5.0) == 1
