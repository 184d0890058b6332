"""What is said of weights is what the numbers say."""

from collections import defaultdict

import numpy as np
import torch

from lightning_coba.balancers import CoBa, Observation, Uniform
from lightning_coba.balancers.account import account

R = torch.arange(1, 25, dtype=torch.float64)


def history_of(losses, balancer=None):
    """Return the records of a run with these losses, ``[T, K]``."""
    balancer = balancer or CoBa()
    state, history = balancer.init(losses.shape[1]), defaultdict(list)
    everyone = torch.ones(losses.shape[1], dtype=torch.bool)
    for record, row in enumerate(losses, 1):
        state, weights = balancer.update(state, Observation(step=10 * record, present=everyone, losses=row))
        columns = {"record": record, "step": 10 * record, "weight": weights.numpy()}
        if isinstance(balancer, CoBa):
            columns |= {"ratio": state.loss_ratio.numpy(), "slope": state.slope.numpy(), "rcs": state.rcs.numpy()}
            columns |= {"divergence_factor": float(state.divergence_factor)}
        for name, value in columns.items():
            history[name].append(value)
    return history


def test_weights_that_did_nothing_are_said_to_have_done_nothing():
    assert account(["a", "b"], history_of(torch.ones(9, 2), Uniform())) == ["The weights stayed equal."]
    near = {"step": [10, 20, 30], "weight": np.array([[0.5, 0.5], [0.52, 0.48], [0.51, 0.49]])}
    [said] = account(["a", "b"], near)
    assert "within 4 % of equal" in said
    assert "uniform weights would have done the same" in said


def test_shares_are_averaged_over_the_steps_they_were_in_force():
    moved = {"step": [10, 20], "weight": np.array([[0.9, 0.1], [0.5, 0.5]])}
    [said] = account(["a", "b"], moved, num_steps=40)  # equal for 10 steps, 1.8 for 10, equal for 20
    assert said == "a got 1.20 times the equal share on average, b 0.80."


def test_the_slowest_task_can_lose_weight_by_its_own_past_and_that_is_what_is_said():
    losses = torch.stack([1.5 + 0.5 * 0.95**R, 0.5 + 1.5 * 0.97**R, 1.8 + 0.2 * 0.7**R], 1)
    first, factor, *why = account(["a", "b", "de"], history_of(losses), window=10)
    assert "de 0.80" in first
    assert "absolute score decides" in factor
    assert "own recent slopes" in factor
    assert "nothing diverges" in factor
    assert why[-1].startswith("de has 0.60 times")
    assert "although it is the slowest task and nothing diverges" in why[-1]


def test_a_rising_loss_is_said_to_rise():
    losses = torch.stack([0.2 + 1.8 * 0.75**R, 2 - 0.04 * R, 1 + 0.8 * 0.85**R + 0.02 * (R - 10).clamp(min=0)], 1)
    *_, last = account(["quick", "slow", "turns"], history_of(losses), window=10)
    assert last.startswith("turns has 0.15 times")
    assert "rises" in last


def test_where_the_relative_score_takes_an_overfitting_task_for_the_slowest_it_warns():
    losses = torch.stack([2 - 0.04 * R, 2 - 0.03 * R, 1 + 0.01 * R], 1)[:12]
    said = account(["a", "b", "rise"], history_of(losses), window=10)
    assert said[-1].startswith("Warning: in 10 records (3 to 12) rise got most weight")
    assert "balancer.prior={rise: 0.5}" in said[-1]
    falling = account(["a", "b", "c"], history_of(torch.stack([2 - 0.04 * R, 2 - 0.03 * R, 1 - 0.01 * R], 1)))
    assert not any("Warning" in sentence for sentence in falling)
