import numpy as np
import pytest
import torch
from reference import FORMS

from lightning_coba.balancers import CoBa, Observation, replay

#: num_tasks, num_records, window, warmup, share of absent entries, which V(0) are given
SHAPES = [
    (1, 120, 10, 3, 0.0, "none"),
    (2, 300, 5, 3, 0.0, "given"),
    (2, 400, 5, 3, 0.35, "partly"),  # now and then a whole record is absent
    (2, 300, 4, 3, 0.8, "none"),  # tasks lose all points of the window
    (2, 200, 4, 3, 0.8, "given"),
    (3, 300, 40, 10, 0.0, "partly"),
    (5, 400, 5, 3, 0.35, "none"),
    (8, 300, 60, 20, 0.35, "given"),
    (24, 400, 50, 20, 0.35, "partly"),
    (4, 60, 200, 30, 0.1, "none"),  # the window is never full
]
#: Float64 from end to end: one float32 quotient on the way would show.
TOLERANCE = 1e-9
KINDS = ["walk", "curves"]


def trace(kind, num_tasks, num_records, absent, seed):
    """Recorded losses, none constant; with gaps, also broken entries and one task that starts late."""
    rng = np.random.default_rng(seed)
    if kind == "walk":
        losses = np.exp(rng.normal(0, 0.05, (num_records, num_tasks)).cumsum(0) + rng.normal(0, 1, num_tasks))
    else:
        t = np.arange(num_records)[:, None]
        speed, floor, drift = (
            rng.uniform(0.002, 0.05, num_tasks),
            rng.uniform(0.1, 1),
            rng.normal(0, 1e-3, num_tasks),
        )
        clean = floor + np.exp(-speed * t) + np.maximum(drift * (t - num_records / 2), -0.05)
        losses = clean * rng.uniform(0.5, 4, num_tasks) * np.exp(rng.normal(0, 0.03, clean.shape))
    present = rng.random(losses.shape) >= absent
    if absent:
        present[: num_records // 2, 0] = False
        broken = rng.random(losses.shape) < 0.02
        losses[broken] = rng.choice([np.nan, np.inf, -np.inf], broken.sum())
        losses[~present] = rng.choice([0.0, -1.0, 7.0, np.nan], (~present).sum())
    return losses, present


def baseline(kind, num_tasks, seed):
    rng = np.random.default_rng(seed + 1000)
    if kind == "none":
        return None
    initial = rng.uniform(0.5, 4, num_tasks)
    if kind == "partly":
        initial[rng.random(num_tasks) < 0.5] = np.nan
    return initial


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_tasks", "num_records", "window", "warmup", "absent", "given"), SHAPES)
def test_both_derivations_agree(form, kind, num_tasks, num_records, window, warmup, absent, given):
    seed = 17 * num_tasks + window + KINDS.index(kind)
    losses, present = trace(kind, num_tasks, num_records, absent, seed)
    initial = baseline(given, num_tasks, seed)
    wanted, factors = FORMS[form](losses, window, warmup, 5.0, initial, present)

    balancer = CoBa(window, warmup, 5.0, form)
    state = balancer.init(num_tasks, None if initial is None else torch.tensor(initial))
    weights, divergence_factors = [], []
    for t in range(num_records):
        record = Observation(
            step=t, present=torch.tensor(present[t]), losses=torch.tensor(losses[t], dtype=torch.float64)
        )
        state, row = balancer.update(state, record)
        weights.append(row.numpy())
        divergence_factors.append(float(state.divergence_factor))

    np.testing.assert_allclose(np.array(weights), wanted, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(np.array(divergence_factors), factors, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 25.0])
@pytest.mark.parametrize("form", FORMS)
def test_both_derivations_agree_at_other_temperatures(form, temperature):
    losses, _ = trace("curves", 4, 200, 0.0, seed=3)
    wanted, _ = FORMS[form](losses, 30, 6, temperature)
    np.testing.assert_allclose(replay(CoBa(30, 6, temperature, form), losses), wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("window", "warmup"), [(2, 1), (2, 2), (2, 30), (3, 1), (5, 40)])
def test_both_derivations_agree_where_only_the_paper_form_is_defined(window, warmup):
    for absent in (0.0, 0.35):
        losses, present = trace("walk", 3, 120, absent, seed=window + warmup)
        wanted, _ = FORMS["paper"](losses, window, warmup, present=present)
        ours = replay(CoBa(window, warmup), losses, present=present)
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=TOLERANCE)
