import math

import numpy as np
import pytest
import torch

from lightning_coba.balancers import CoBa, Fixed, Observation, TokenMean, Uniform, explain, replay
from lightning_coba.balancers.base import check_baseline

LOSSES = [[1.0, 1.0], [0.9, 0.5], [0.8, 0.3], [0.7, 0.2], [0.6, 0.15]]


def test_replay_takes_lists_arrays_and_tensors_alike():
    lists = replay(CoBa(4, 2), LOSSES, initial=[1.0, 1.0])
    assert torch.equal(lists, replay(CoBa(4, 2), np.array(LOSSES), initial=np.ones(2)))
    assert torch.equal(lists, replay(CoBa(4, 2), torch.tensor(LOSSES, dtype=torch.float64), initial=torch.ones(2)))
    assert lists.dtype == torch.float64


def test_replay_of_no_record_is_an_empty_table():
    assert replay(CoBa(), torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("losses", [[1.0, 2.0], [[[1.0]]], 3.0])
def test_replay_refuses_losses_that_are_no_table(losses):
    with pytest.raises(ValueError, match=r"\[T, K\]"):
        replay(CoBa(), losses)


def test_replay_refuses_signals_of_unequal_shape():
    with pytest.raises(ValueError, match=r"one shape \[T, K\].*train_losses"):
        replay(CoBa(), LOSSES, train_losses=[[1.0, 2.0]])


def test_replay_refuses_a_mask_of_another_shape():
    with pytest.raises(ValueError, match=r"`replay.present` must have the losses' shape \(5, 2\); got \(2,\)"):
        replay(CoBa(), LOSSES, present=[True, False])


def test_replay_names_the_signal_that_is_missing():
    with pytest.raises(ValueError, match=r"`replay\.losses` must be given: CoBa"):
        replay(CoBa())
    with pytest.raises(ValueError, match=r"`replay\.losses` must be given: Uniform"):
        replay(Uniform())


def test_the_standard_error_of_losses_is_an_extra_and_no_signal():
    assert Observation(step=1, present=torch.tensor([True])).losses_se is None
    with pytest.raises(TypeError, match="losses_se"):
        replay(CoBa(), LOSSES, losses_se=LOSSES)


def test_token_mean_has_no_replay():
    with pytest.raises(ValueError, match="TokenMean has no replay"):
        replay(TokenMean(), LOSSES)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, -math.inf])
def test_replay_refuses_a_given_baseline_that_is_not_positive_and_names_the_task(bad):
    with pytest.raises(ValueError, match=rf"V\(0\) of task 1 must be finite and > 0; got {bad}"):
        replay(CoBa(), LOSSES, initial=[1.0, bad])


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_replay_refuses_a_first_record_that_is_not_positive(bad):
    losses = [[1.0, math.nan], [1.0, bad], [1.0, 2.0]]
    with pytest.raises(ValueError, match=rf"V\(0\) of task 1 must be finite and > 0; got {bad}"):
        replay(CoBa(), losses)
    replay(CoBa(), losses, initial=[math.nan, 1.0])  # not needed then


def test_replay_refuses_a_baseline_of_another_length():
    with pytest.raises(ValueError, match=r"`initial` must hold one V\(0\) per task, shape \(2,\); got \(3,\)"):
        replay(CoBa(), LOSSES, initial=[1.0, 1.0, 1.0])


def test_a_baseline_error_names_the_task():
    with pytest.raises(ValueError, match="task 'qa'"):
        check_baseline(torch.tensor([1.0, 0.0]), tasks=["code", "qa"])
    given = torch.tensor([1.0, math.nan])
    assert check_baseline(given, tasks=["code", "qa"]) is given


def test_a_task_that_is_never_seen_needs_no_baseline():
    losses = torch.tensor(LOSSES)
    losses[:, 1] = math.nan
    assert replay(CoBa(4, 2), losses).isfinite().all()


def test_uniform_gives_every_task_the_same():
    assert torch.equal(replay(Uniform(), LOSSES), torch.full((5, 2), 0.5, dtype=torch.float64))


def test_fixed_keeps_its_weights_normalised():
    assert replay(Fixed([3, 1]), LOSSES).tolist() == [[0.75, 0.25]] * 5
    assert replay(Fixed([0, 2]), LOSSES).tolist() == [[0.0, 1.0]] * 5


def test_fixed_by_name_is_put_into_task_order():
    named = Fixed({"qa": 1, "code": 3})
    assert named.for_tasks(["code", "qa"]).init(2).weights.tolist() == [0.75, 0.25]
    assert named.for_tasks(["qa", "code"]).init(2).weights.tolist() == [0.25, 0.75]
    listed = Fixed([1, 3])
    assert listed.for_tasks(["code", "qa"]) == listed


@pytest.mark.parametrize("tasks", [["code"], ["code", "qa", "nlu"], ["code", "nlu"]])
def test_fixed_by_name_must_name_every_task(tasks):
    with pytest.raises(ValueError, match=r"`Fixed.weights` must name every task once.*The tasks are: code"):
        Fixed({"qa": 1, "code": 3}).for_tasks(tasks)


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2], [math.nan, 1], [math.inf, 1], {"a": -1}])
def test_fixed_refuses_weights_outside_their_domain(weights):
    with pytest.raises(ValueError, match=r"`Fixed.weights` must be finite numbers >= 0 with a positive sum"):
        Fixed(weights)


def test_fixed_refuses_another_number_of_tasks():
    with pytest.raises(ValueError, match=r"`Fixed.weights` must hold 3 weights"):
        Fixed([1, 2]).init(3)


def test_explain_says_why_each_task_has_its_weight():
    balancer = CoBa(4, 2)
    state = balancer.init(3)
    before = explain(state, ["code", "qa", "nlu"])
    assert "warm-up" in before.splitlines()[0]
    assert before.splitlines()[1].split() == ["task", "loss/V(0)", "slope", "RCS", "ACS", "weight", "multiple"]
    assert before.splitlines()[2].split() == ["code", "-", "-", "-", "-", "0.3333", "1.00"]

    for row in LOSSES:
        present = torch.tensor([True, True, False])
        losses = torch.tensor([*row, math.nan], dtype=torch.float64)
        state, _ = balancer.update(state, Observation(step=1, present=present, losses=losses))
    told = explain(state, ["code", "qa", "nlu"])
    assert "share" in told.splitlines()[0]
    assert f"the {'relative' if state.divergence_factor >= 0.5 else 'absolute'} score decides" in told.splitlines()[1]
    table = [line.split() for line in told.splitlines()][-5:]
    assert table[1][0] == "code"
    assert table[1][1:] == [
        *(f"{float(v[0]):.4f}" for v in (state.loss_ratio, state.slope, state.rcs, state.acs, state.weights)),
        f"{3 * float(state.weights[0]):.2f}",
    ]
    assert table[3] == ["nlu", "-", "-", "-", "-", "0.3333", "1.00"]
    assert table[-1][:2] == ["record", "5,"]
    assert f"{float(state.divergence_factor):.4f}" in table[-1]


def test_explain_columns_line_up():
    table = explain(Fixed([1, 3]).init(2), ["a", "a_longer_name"]).splitlines()
    assert table[0] == "a_longer_name has 1.50 times the equal share, a 0.50."
    assert table[1].split() == ["task", "weight", "multiple"]
    assert len({len(line) for line in table[1:-1]}) == 1


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_states_live_on_the_device_they_are_asked_for(device):
    for balancer in (CoBa(), Uniform(), Fixed([1, 2, 3]), TokenMean()):
        state = balancer.init(3, device=device)
        assert {v.device.type for v in state if isinstance(v, torch.Tensor)} == {device}


def test_a_device_without_float64_gets_its_state_on_the_cpu():
    assert CoBa().init(2, device="mps").weights.device.type == "cpu"
    assert Uniform().init(2, device="mps").weights.device.type == "cpu"
