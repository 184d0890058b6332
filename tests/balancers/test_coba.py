"""What makes CoBa CoBa: each test states one truth about its weights."""

import math
from dataclasses import replace as with_fields
from itertools import pairwise

import pytest
import torch
from reference import coba_paper

from lightning_coba.balancers import CoBa, Observation, replay

FORMS = ["paper", "mftcoder"]
both_forms = pytest.mark.parametrize("form", FORMS)


def observe(row, present=None, step=0):
    row = torch.as_tensor(row, dtype=torch.float64)
    mask = torch.ones(len(row), dtype=torch.bool) if present is None else torch.as_tensor(present)
    return Observation(step=step, present=mask, losses=row)


def states(balancer, losses, initial=None, present=None):
    """All states along a trace, the one before the first record included."""
    losses = torch.as_tensor(losses, dtype=torch.float64)
    state = balancer.init(losses.shape[1], None if initial is None else torch.as_tensor(initial))
    trail = [state]
    for index, row in enumerate(losses):
        state, _ = balancer.update(state, observe(row, None if present is None else present[index]))
        trail.append(state)
    return trail


def curves(*rates, num_records=60, noise=0.0, seed=0):
    """Exponential decays from 1 at the given rates (negative = diverging)."""
    t = torch.arange(num_records, dtype=torch.float64)[:, None]
    clean = (-torch.tensor(rates, dtype=torch.float64) * t).exp()
    wobble = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return clean * (1 + noise * wobble)


@both_forms
@pytest.mark.parametrize("initial", [None, [1.3, 0.7, 2.0]])
def test_scaling_a_task_and_its_baseline_changes_nothing(form, initial):
    losses = curves(0.02, 0.05, 0.01, noise=0.02)
    scale = torch.tensor([1000.0, 1.0, 0.003], dtype=torch.float64)
    balancer = CoBa(20, 5, form=form)
    one = replay(balancer, losses, initial=initial)
    given = None if initial is None else torch.tensor(initial, dtype=torch.float64) * scale
    other = replay(balancer, losses * scale, initial=given)
    assert (one - other).abs().max() < 1e-9
    if initial is not None:  # the baseline does matter: without scaling it along, something changes
        assert (one - replay(balancer, losses * scale, initial=initial)).abs().max() > 1e-3


@both_forms
def test_the_relative_score_raises_the_slowest_task(form):
    trail = states(CoBa(10, 3, form=form), curves(0.01, 0.05, 0.1, num_records=12))
    for state in trail[4:]:
        assert state.slope.argsort(descending=True).tolist() == [0, 1, 2]
        assert state.rcs.argsort(descending=True).tolist() == [0, 1, 2]


def test_where_the_factor_is_one_the_slowest_task_has_the_largest_weight():
    state = states(CoBa(10, 3), curves(0.01, 0.05, 0.1, num_records=3))[-1]
    assert state.divergence_factor == 1  # the first recorded peak is all there is
    assert state.weights.argmax() == 0
    assert torch.allclose(state.weights, state.rcs, rtol=0, atol=1e-15)


@both_forms
def test_the_absolute_score_lowers_a_diverging_task(form):
    losses = curves(0.03, 0.03, 0.03, num_records=60, noise=1e-3)
    losses[30:, 2] = losses[30, 2] * 1.05 ** torch.arange(30, dtype=torch.float64)
    trail = states(CoBa(10, 3, form=form), losses)
    before, after = trail[30], trail[45]
    assert after.slope[2] > 0
    assert after.divergence_factor < 0.1 < before.divergence_factor  # the absolute score speaks
    assert after.acs.argmin() == 2
    assert after.acs[2] < before.acs[2]
    assert after.weights.argmin() == 2
    assert after.weights[2] < 0.15


@pytest.mark.parametrize("num_tasks", [2, 3, 7, 13, 49])
@pytest.mark.parametrize(
    ("form", "warmup", "first"),
    [
        ("paper", 1, 1),
        ("paper", 2, 1),
        ("paper", 3, 2),
        ("paper", 10, 9),
        ("mftcoder", 3, 1),
        ("mftcoder", 10, 8),
    ],
)
def test_warm_up_is_exactly_uniform_until_its_row(num_tasks, form, warmup, first):
    rates = torch.linspace(0.01, 0.2, num_tasks).tolist()
    weights = replay(CoBa(20, warmup, form=form), curves(*rates, num_records=20))
    assert torch.equal(weights[:first], torch.full((first, num_tasks), 1 / num_tasks, dtype=torch.float64))
    assert (weights[first] - 1 / num_tasks).abs().max() > 1e-3


def test_a_record_without_any_task_leaves_the_paper_weights():
    losses = curves(0.02, 0.06, noise=0.02)
    present = torch.ones_like(losses, dtype=torch.bool)
    present[30:36] = False
    trail = states(CoBa(10, 3), losses, present=present)
    for state in trail[31:37]:
        assert torch.equal(state.weights, trail[30].weights)
        assert torch.equal(state.divergence_factor, trail[30].divergence_factor)
        assert not state.peaks_recorded[state.record - 1]
    assert trail[36].record == 36
    assert not torch.equal(trail[37].weights, trail[30].weights)
    assert not torch.equal(trail[37].weights, states(CoBa(10, 3), losses[present[:, 0]])[31].weights)  # x has a gap


def test_a_record_without_any_task_recomputes_the_mftcoder_weights():
    losses = curves(0.02, 0.06, noise=0.02)
    present = torch.ones_like(losses, dtype=torch.bool)
    present[30] = False
    trail = states(CoBa(10, 3, form="mftcoder"), losses, present=present)
    assert not torch.equal(trail[31].weights, trail[30].weights)
    assert bool(trail[31].peaks_recorded[30])


def test_mftcoder_closes_gaps_and_paper_does_not():
    losses = curves(0.02, 0.06, num_records=12)
    present = torch.ones_like(losses, dtype=torch.bool)
    present[5:8, 0] = False
    dense = torch.cat([losses[:5, 0], losses[8:, 0]])
    for form, expected_x in (("paper", [0, 1, 2, 3, 4, 8, 9, 10, 11]), ("mftcoder", range(9))):
        state = states(CoBa(12, 3, form=form), losses, present=present)[-1]
        x = torch.tensor([*expected_x], dtype=torch.float64)
        x = x - x.mean()
        assert state.slope[0].item() == pytest.approx(((x * dense).sum() / (x * x).sum()).item(), rel=1e-12)


def test_a_task_without_two_points_keeps_one_kth_and_the_others_share_the_rest():
    losses = curves(0.02, 0.06, 0.01, 0.1, num_records=40, noise=0.02)
    present = torch.ones_like(losses, dtype=torch.bool)
    present[:, 3] = False
    present[7, 3] = True  # one point is no line
    state = states(CoBa(40, 3), losses, present=present)[-1]
    assert state.weights[3] == pytest.approx(1 / 4, abs=1e-15)
    assert math.isnan(state.slope[3])
    assert math.isnan(state.rcs[3])
    assert math.isnan(state.acs[3])
    alone, _ = coba_paper(losses[:, :3].numpy(), 40, 3)
    assert state.weights[:3].numpy() == pytest.approx(alone[-1] * 3 / 4, abs=1e-12)


def test_a_task_that_left_the_window_goes_back_to_one_kth():
    losses = curves(0.02, 0.06, 0.01, num_records=40, noise=0.02)
    present = torch.ones_like(losses, dtype=torch.bool)
    present[20:, 1] = False
    trail = states(CoBa(8, 3), losses, present=present)
    assert abs(trail[26].weights[1] - 1 / 3) > 1e-3  # records 19 and 20 are still two points
    assert abs(trail[27].weights[1] - 1 / 3) < 1e-15
    assert trail[27].slopes_recorded.sum(dim=1).tolist() == [8, 7, 8]


def test_a_task_absent_from_this_record_is_refitted_and_counted():
    losses = curves(0.02, 0.06, num_records=30, noise=0.02)
    present = torch.ones_like(losses, dtype=torch.bool)
    present[25, 0] = False
    trail = states(CoBa(10, 3), losses, present=present)
    assert trail[26].slope[0] != trail[25].slope[0]
    assert trail[26].slopes_recorded.all()


@both_forms
def test_zero_is_a_legal_loss(form):
    losses = curves(0.02, 0.06, num_records=30)
    losses[10:, 1] = 0.0
    present = torch.ones_like(losses, dtype=torch.bool)
    weights = replay(CoBa(8, 3, form=form), losses)
    assert weights.isfinite().all()
    assert torch.equal(weights, replay(CoBa(8, 3, form=form), losses, present=present))
    present[10:, 1] = False
    assert (weights - replay(CoBa(8, 3, form=form), losses, present=present)).abs().max() > 1e-3


def test_constant_losses_keep_uniform_weights():
    level = torch.tensor([0.7, 1.3, 1 / 3], dtype=torch.float64).expand(200, 3)
    for initial in (None, [0.9, 1.7, 0.123]):
        weights = replay(CoBa(10, 3), level, initial=initial)
        assert (weights - 1 / 3).abs().max() < 1e-12


def test_one_constant_task_is_not_taken_for_a_diverging_one():
    losses = curves(0.02, 0.03, 0.02, num_records=200, noise=0.01)
    losses[:, 2] = 0.7
    trail = states(CoBa(10, 3), losses, initial=[1.0, 1.0, 0.9])
    for state in trail[4:]:
        moving, other, still = (state.acs[k].log() for k in range(3))
        assert math.isfinite(moving + other + still)
    # Its logit is 0, so its score stands to the others' as e^0 to e^logit.
    last = trail[-1]
    logit = -10 * last.slope[0] / last.slopes[0].abs().sum()
    assert (last.acs[2] / last.acs[0]).item() == pytest.approx((-logit).exp().item(), rel=1e-9)


@both_forms
def test_constant_losses_give_no_nan(form):
    for level in (1.0, 0.7, 1e-30):
        weights = replay(CoBa(10, 3, form=form), torch.full((100, 3), level, dtype=torch.float64))
        assert weights.isfinite().all()
        assert (weights.sum(dim=1) - 1).abs().max() < 1e-12


@both_forms
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_loss_is_an_absent_one_and_does_not_poison(form, bad):
    losses = curves(0.02, 0.06, 0.04, noise=0.02)
    broken, present = losses.clone(), torch.ones_like(losses, dtype=torch.bool)
    for t, k in ((0, 0), (1, 2), (15, 1), (16, 1), (40, 0), (40, 1), (40, 2)):
        broken[t, k] = bad
        present[t, k] = False
    weights = replay(CoBa(10, 3, form=form), broken)
    assert weights.isfinite().all()
    assert torch.equal(weights, replay(CoBa(10, 3, form=form), losses, present=present))


@both_forms
@pytest.mark.parametrize("first", [0.0, -2.0])
def test_a_first_record_that_cannot_be_divided_by_counts_as_absent(form, first):
    losses = curves(0.02, 0.06, num_records=30)
    shifted, present = losses.clone(), torch.ones_like(losses, dtype=torch.bool)
    shifted[0, 1], present[0, 1] = first, False
    ours = states(CoBa(8, 3, form=form), shifted)[-1]
    assert torch.equal(ours.weights, states(CoBa(8, 3, form=form), losses, present=present)[-1].weights)
    assert ours.initial[1] == losses[1, 1]


@both_forms
def test_a_nan_baseline_is_the_first_present_record(form):
    losses = curves(0.02, 0.06, noise=0.02)
    partly = replay(CoBa(10, 3, form=form), losses, initial=[math.nan, 0.8])
    assert torch.equal(partly, replay(CoBa(10, 3, form=form), losses, initial=[losses[0, 0], 0.8]))
    assert not torch.equal(partly, replay(CoBa(10, 3, form=form), losses))


def test_weights_do_not_depend_on_the_optimizer_step():
    losses = curves(0.02, 0.06, noise=0.02)
    balancer = CoBa(10, 3)
    here = there = balancer.init(2)
    for index, row in enumerate(losses):
        here, one = balancer.update(here, observe(row, step=index))
        there, other = balancer.update(there, observe(row, step=1_000_000 - 37 * index))
        assert torch.equal(one, other)


def test_float32_losses_are_balanced_in_float64():
    losses = curves(0.02, 0.06, noise=0.02).float()
    balancer = CoBa(10, 3)
    state, weights = balancer.update(balancer.init(2), with_fields(observe(losses[0]), losses=losses[0]))
    assert weights.dtype == state.ratios.dtype == torch.float64


def test_the_state_holds_no_graph():
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    balancer = CoBa()
    record = Observation(step=1, present=torch.tensor([True, True]), losses=losses * 2)
    state, weights = balancer.update(balancer.init(2), record)
    assert not weights.requires_grad
    assert not any(isinstance(v, torch.Tensor) and v.requires_grad for v in state)


def test_the_divergence_factor_is_clamped_in_the_paper_form_alone():
    losses = curves(0.002, 0.02, 0.01, num_records=300, noise=0.05, seed=3)
    highest = {
        form: max(float(state.divergence_factor) for state in states(CoBa(20, 5, form=form), losses)[6:])
        for form in FORMS
    }
    assert highest["paper"] == 1.0
    assert highest["mftcoder"] > 1.0


def test_mftcoder_weights_do_not_fall_below_their_floor():
    losses = curves(0.001, 0.5, 0.2, -0.02, num_records=80, noise=0.02)
    weights = replay(CoBa(10, 3, form="mftcoder"), losses)
    assert weights.min() >= 1 / 40
    assert weights.min() < 1.2 / 40  # it was at work
    assert replay(CoBa(10, 3), losses).min() < 1 / 40


@pytest.mark.parametrize(
    "arguments",
    [
        {"window_records": 1},
        {"window_records": 2.0},
        {"window_records": True},
        {"window_records": "10"},
        {"warmup_records": 0},
        {"warmup_records": -1},
        {"warmup_records": 1.5},
        {"warmup_records": True},
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"temperature": "5"},
        {"form": "code"},
        {"form": None},
    ],
    ids=str,
)
def test_an_argument_outside_its_domain_is_refused_by_name(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=rf"`CoBa\.{name}` must be .*got {value!r}"):
        CoBa(**arguments)


@pytest.mark.parametrize(("window", "warmup"), [(10, 1), (10, 2), (10, 10), (5, 6)])
def test_mftcoder_needs_a_warm_up_of_three_and_a_longer_window(window, warmup):
    CoBa(window, warmup)
    with pytest.raises(ValueError, match=rf"3 <= warmup_records < window_records.*warmup_records={warmup}"):
        CoBa(window, warmup, form="mftcoder")


def test_an_admitted_task_starts_with_a_uniform_share_and_its_own_warm_up():
    balancer = CoBa(10, 5)
    old = curves(0.02, 0.06, noise=0.02)
    state = states(balancer, old[:20])[-1]
    wider = balancer.admit(state, [1, None, 0])
    assert wider.record == 20
    assert wider.weights[1].item() == pytest.approx(1 / 3, abs=1e-15)
    assert torch.allclose(wider.weights[[2, 0]], state.weights * 2 / 3, rtol=0, atol=1e-15)

    new = torch.stack([old[20:, 1], curves(0.2, num_records=40)[:, 0], old[20:, 0]], dim=1)
    trail = []
    for row in new:
        wider, _ = balancer.update(wider, observe(row))
        trail.append(wider)
    for state in trail[:4]:
        assert state.weights[1].item() == pytest.approx(1 / 3, abs=1e-15)
        assert math.isnan(state.acs[1])
    assert abs(trail[4].weights[1] - 1 / 3) > 1e-3
    assert trail[-1].initial[1] == new[0, 1]

    whole = torch.full((60, 3), math.nan, dtype=torch.float64)
    whole[:20, [2, 0]], whole[20:] = old[:20], new
    # Tasks 0 and 2 count alone (K = 2) up to record 20, as three tasks with one not yet valid do.
    wanted, factors = coba_paper(whole.numpy(), 10, 5, joined=[0, 20, 0])
    assert torch.stack([s.weights for s in trail]).numpy() == pytest.approx(wanted[20:], abs=1e-9)
    assert [float(s.divergence_factor) for s in trail] == pytest.approx(factors[20:], abs=1e-9)


def test_an_admitted_state_carries_the_old_tasks_unchanged():
    balancer = CoBa(10, 5)
    state = states(balancer, curves(0.02, 0.06, noise=0.02)[:20])[-1]
    wider = balancer.admit(state, [None, 0, 1])
    for field in (
        "initial",
        "ratios",
        "ratios_present",
        "slopes",
        "slopes_recorded",
        "joined",
        "slope",
        "rcs",
        "acs",
    ):
        assert torch.equal(getattr(wider, field)[1:], getattr(state, field)), field
    assert torch.equal(wider.peaks, state.peaks)
    assert wider.joined.tolist() == [20, 0, 0]


def noise(num_records, num_tasks=3, deviation=0.007, seed=0):
    """Ratios that stay at 1 and scatter."""
    shape, generator = (num_records, num_tasks), torch.Generator().manual_seed(seed)
    return 1 + deviation * torch.randn(shape, generator=generator, dtype=torch.float64)


def test_records_within_their_noise_move_nothing_if_asked():
    runs = [noise(40, seed=seed) for seed in range(20)]
    moved = {
        level: sum(bool(((weights * 3 - 1).abs() > 1e-9).any()) for weights in (replay(balancer, run) for run in runs))
        for level, balancer in ((None, CoBa()), (0.01, CoBa(significance=0.01)))
    }
    assert moved[None] == 20  # the paper's rule swings with every record
    assert moved[0.01] <= 5  # 40 records, some of whose windows share no points


def test_a_drift_that_two_decimals_do_not_show_is_within_the_noise():
    # As in the warm-up of a learning rate: smooth, without scatter, and next to nothing.
    drift = 1 - torch.outer(torch.arange(12.0, dtype=torch.float64) ** 2, torch.tensor([1e-5, 2e-6, 5e-6]).double())
    assert (replay(CoBa(), drift)[-1] * 3 - 1).abs().max() > 0.3
    assert torch.equal(replay(CoBa(significance=0.01), drift), torch.full((12, 3), 1 / 3, dtype=torch.float64))


def test_weights_stay_where_they_are_while_records_are_noise():
    falling = curves(0.05, 0.1, 0.2, num_records=14)
    flat = falling[-1] * noise(20, deviation=1e-3)
    trail = states(CoBa(window_records=5, significance=0.01), torch.cat([falling, flat]))
    moved = [bool((after.weights != before.weights).any()) for before, after in pairwise(trail)]
    assert all(moved[6:14])
    assert not any(moved[-10:])
    assert trail[-1].record == 34
    assert int(trail[-1].peaks_recorded.sum()) == sum(moved)  # what moves nothing enters no history
    assert (trail[-1].slope != trail[-2].slope).all()  # and is shown all the same


def test_a_steep_fall_that_is_no_line_is_told_from_noise_with_six_records():
    falls = torch.tensor([[0.91, 0.79, 0.85], [0.45, 0.17, 0.46], [0.37, 0.08, 0.30], [0.36, 0.04, 0.17],
                          [0.34, 0.05, 0.10], [0.33, 0.05, 0.08]], dtype=torch.float64)  # fmt: skip
    weights = replay(CoBa(significance=0.01), falls)
    assert (weights[4] * 3 == 1).all()
    assert (weights[5] * 3 - 1).abs().max() > 0.05


@pytest.mark.parametrize("window", [2, 3, 5])
def test_in_a_window_too_short_for_the_level_all_records_have_to_fall(window):
    falls = 1 - 0.1 * torch.arange(8.0, dtype=torch.float64)[:, None] * torch.tensor([0.5, 1.0])
    balancer = CoBa(window_records=window, warmup_records=2, significance=1e-6)
    moved = (replay(balancer, falls) * 2 != 1).any(1)
    assert moved.tolist() == [record >= window for record in range(1, 9)]


def test_where_slopes_are_clear_the_option_changes_nothing_but_the_beginning():
    losses = curves(0.02, 0.05, 0.1, num_records=40, noise=1e-4)
    plain, cautious = replay(CoBa(), losses), replay(CoBa(significance=0.01), losses)
    late = (plain - cautious).abs()[20:]
    assert late.max() < 0.05


@pytest.mark.parametrize(
    "arguments",
    [{"significance": 0}, {"significance": 1.0}, {"significance": 0.01, "form": "mftcoder"}],
)
def test_significance_is_a_level_in_the_paper_form(arguments):
    with pytest.raises(ValueError, match="significance"):
        CoBa(**{"significance": 0.01, "warmup_records": 3, **arguments})
