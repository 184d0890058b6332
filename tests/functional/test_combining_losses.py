import math

import pytest
import torch

from lightning_coba.functional import TaskLosses, combine, task_losses

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def test_task_losses_sums_and_counts_by_task():
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0])
    found = task_losses(losses, torch.tensor([2, 0, 2, 3]), 5)
    assert isinstance(found, TaskLosses)
    assert found.sums.tolist() == [2.0, 0.0, 5.0, 8.0, 0.0]
    assert found.counts.tolist() == [1, 0, 2, 1, 0]


def test_task_losses_of_nothing_are_zero():
    found = task_losses(torch.empty(0), torch.empty(0, dtype=torch.int64), 2)
    assert found.sums.tolist() == [0.0, 0.0]
    assert found.counts.tolist() == [0, 0]


def test_task_losses_carry_the_gradient_to_their_elements():
    losses = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    (task_losses(losses, torch.tensor([1, 0, 1]), 2).sums * torch.tensor([10.0, 3.0])).sum().backward()
    assert losses.grad.tolist() == [3.0, 10.0, 3.0]


def test_a_broken_loss_stays_in_its_own_task():
    sums = task_losses(torch.tensor([math.nan, 2.0]), torch.tensor([0, 1]), 2).sums
    assert sums[0].isnan()
    assert sums[1] == 2


@pytest.mark.parametrize("present", [[True, True, True], [True, False, True], [False, True, False]])
def test_combine_is_its_formula(present):
    losses = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    there = [i for i in range(3) if present[i]]
    weighted = sum(float(WEIGHTS[i] * losses[i]) for i in there)
    step = combine(losses, WEIGHTS, torch.tensor(present))
    assert float(step) == pytest.approx(weighted * 3 / len(there), rel=1e-12)
    relative = combine(losses, WEIGHTS, torch.tensor(present), normalize="present")
    assert float(relative) == pytest.approx(weighted / sum(float(WEIGHTS[i]) for i in there), rel=1e-12)


def test_uniform_weights_give_the_mean_of_the_present_tasks():
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    value = combine(torch.tensor([1.0, 5.0, 9.0]), uniform, torch.tensor([True, False, True]))
    assert float(value) == pytest.approx(5.0)


@pytest.mark.parametrize("num_present", [3, torch.tensor(3)])
def test_the_steps_number_of_present_tasks_wins_over_the_batchs(num_present):
    value = combine(torch.tensor([4.0, 0.0, 0.0]), WEIGHTS, torch.tensor([True, False, False]), num_present)
    assert float(value) == pytest.approx(2.0)


@pytest.mark.parametrize("normalize", ["step", "present"])
@pytest.mark.parametrize("hidden", [math.nan, math.inf])
def test_an_absent_entry_leaks_neither_into_the_value_nor_into_the_gradient(normalize, hidden):
    losses = torch.tensor([1.0, hidden, 3.0], requires_grad=True)
    present = torch.tensor([True, False, True])
    value = combine(losses, WEIGHTS, present, normalize=normalize)
    value.backward()
    value = value.detach()
    scale = 1.5 if normalize == "step" else 1 / 0.7
    assert float(value) == pytest.approx((0.5 + 0.6) * scale)
    assert losses.grad.tolist() == pytest.approx([0.5 * scale, 0.0, 0.2 * scale])


@pytest.mark.parametrize("normalize", ["step", "present"])
def test_no_present_task_gives_zero(normalize):
    losses = torch.tensor([math.nan, 1.0, 2.0], requires_grad=True)
    value = combine(losses, WEIGHTS, torch.zeros(3, dtype=torch.bool), normalize=normalize)
    value.backward()
    assert value == 0
    assert losses.grad.tolist() == [0.0, 0.0, 0.0]


def test_weights_get_no_gradient():
    weights = WEIGHTS.clone().requires_grad_()
    losses = torch.ones(3, requires_grad=True)
    combine(losses, weights, torch.ones(3, dtype=torch.bool)).backward()
    assert weights.grad is None


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_value_is_float32_or_wider(dtype, wide):
    losses = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    value = combine(losses, WEIGHTS, torch.ones(3, dtype=torch.bool))
    assert value.dtype == wide
    assert float(value) == pytest.approx(1.7, abs=1e-6)


def test_a_broken_training_loss_is_passed_on():
    assert combine(torch.tensor([math.nan, 1.0, 1.0]), WEIGHTS, torch.ones(3, dtype=torch.bool)).isnan()


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match=r"`combine.normalize` must be \"step\" or \"present\"; got 'batch'"):
        combine(torch.ones(3), WEIGHTS, torch.ones(3, dtype=torch.bool), normalize="batch")


def test_float64_losses_are_combined_in_float64():
    losses, weights = torch.full((7,), 1.0, dtype=torch.float64), torch.full((7,), 1 / 7, dtype=torch.float64)
    present = torch.arange(7) < 3
    assert float(combine(losses, weights, present)) == pytest.approx(1.0, abs=1e-15)
