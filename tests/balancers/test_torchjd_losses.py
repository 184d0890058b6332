"""The methods on training losses: against torchjd used as its documentation says, and against their formulas."""

import math

import pytest
import torch
from torchjd import scalarization

from lightning_coba.balancers import Observation, replay
from lightning_coba.balancers.torchjd_averages import DWA
from lightning_coba.balancers.torchjd_learned import IMTLL, UW
from lightning_coba.balancers.torchjd_losses import RLW, STCH, GeometricMean

NAN = math.nan


def losses(num_records, num_tasks):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num_records, num_tasks, generator=generator, dtype=torch.float64) * 3 + 0.1


@pytest.mark.parametrize(
    ("balancer", "rule", "sign"),
    [(UW(lr=0.1), scalarization.UW, -1), (IMTLL(lr=0.1), scalarization.IMTLL, 1)],
    ids=["UW", "IMTLL"],
)
def test_learned_weights_are_those_of_torchjd_with_torchs_adam(balancer, rule, sign):
    rows = losses(60, 4)
    scalarizer = rule(4).double()
    [values] = scalarizer.parameters()
    adam = torch.optim.Adam([values], lr=0.1)
    expected = []
    for row in rows:
        adam.zero_grad()
        scalarizer(row).backward()
        adam.step()
        expected.append(torch.softmax(sign * values.detach(), dim=0))
    assert (replay(balancer, train_losses=rows) - torch.stack(expected)).abs().max() < 1e-12


@pytest.mark.parametrize("balancer", [UW(lr=0.05), IMTLL(lr=0.05)], ids=["UW", "IMTLL"])
def test_learned_weights_approach_the_inverse_losses(balancer):
    weights = replay(balancer, train_losses=[[2.0, 0.5, 1.0]] * 600)
    expected = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) / 3.5
    assert (weights[-1] - expected).abs().max() < 1e-3


@pytest.mark.parametrize("balancer", [UW(), IMTLL()], ids=["UW", "IMTLL"])
def test_an_absent_task_keeps_what_was_learned_of_it(balancer):
    state = balancer.init(3)
    everyone = torch.ones(3, dtype=torch.bool)
    row = torch.tensor([2.0, 0.5, 1.5], dtype=torch.float64)
    state, _ = balancer.update(state, Observation(step=1, present=everyone, train_losses=row))
    first = state
    for hidden, present in ((NAN, everyone), (9.0, torch.tensor([True, False, True]))):
        row = torch.tensor([2.0, hidden, 1.5], dtype=torch.float64)
        state, _ = balancer.update(state, Observation(step=2, present=present, train_losses=row))
    for field in ("values", "exp_avg", "exp_avg_sq", "num_steps"):
        before, after = getattr(first, field), getattr(state, field)
        assert after[1] == before[1]
        assert (after[[0, 2]] != before[[0, 2]]).all()


@pytest.mark.parametrize("balancer", [UW(), IMTLL(), GeometricMean(), STCH()], ids=lambda balancer: balancer.label)
def test_a_task_never_seen_has_one_part_of_k_and_the_others_share_the_rest(balancer):
    rows = losses(5, 3)
    alone = replay(balancer, train_losses=rows[:, :2])
    present = torch.tensor([[True, True, False]] * 5)
    weights = replay(balancer, train_losses=rows, present=present)
    assert (weights[:, 2] == 1 / 3).all()
    assert (weights[:, :2] - alone * (2 / 3)).abs().max() < 1e-15


@pytest.mark.parametrize("balancer", [GeometricMean(), STCH()], ids=lambda balancer: balancer.label)
def test_an_absent_task_keeps_its_last_loss(balancer):
    gaps = replay(balancer, train_losses=[[1.0, 2.0], [3.0, NAN], [math.inf, 5.0]])
    filled = replay(balancer, train_losses=[[1.0, 2.0], [3.0, 2.0], [3.0, 5.0]])
    assert torch.equal(gaps, filled)


def test_dwa_is_that_of_torchjd_with_blocks_for_epochs():
    rows = losses(17, 4)
    scalarizer, expected = scalarization.DWA(temperature=0.7), []
    for t, row in enumerate(rows, start=1):
        scalarizer(row)
        if t % 3 == 0:
            scalarizer.step()
        leaf = torch.ones(4, dtype=torch.float64, requires_grad=True)
        weights = scalarization.DWA._compute_weights(scalarizer, leaf)  # a call would count as a batch
        expected.append(weights.detach() / 4)
    weights = replay(DWA(temperature=0.7, block_records=3), train_losses=rows)
    assert (weights - torch.stack(expected)).abs().max() < 1e-14
    assert (weights[:5] == 0.25).all()  # two blocks
    assert (weights[5] != 0.25).all()
    assert torch.equal(weights[5], weights[7])


def test_dwas_means_are_over_the_records_in_which_a_task_was_there():
    rows = [[4.0, 1.0], [NAN, 1.0], [2.0, 1.0], [4.0, 1.0]]
    weights = replay(DWA(block_records=2), train_losses=rows)
    assert torch.allclose(weights[-1], torch.tensor([3 / 4, 1.0]).double().div(2).softmax(dim=0), atol=1e-15)


def test_dwa_goes_on_after_a_block_without_a_task():
    rows = [[1.0, 4.0], [1.0, NAN], [1.0, 2.0], [1.0, NAN]]
    weights = replay(DWA(block_records=1), train_losses=rows)
    expected = torch.tensor([1.0, 0.5]).double().div(2).softmax(dim=0)
    assert (weights[:2] == 0.5).all()  # the second task has one mean
    assert torch.allclose(weights[2:], expected.expand(2, 2), atol=1e-15)


def test_dwa_leaves_out_a_task_whose_older_mean_is_zero():
    weights = replay(DWA(block_records=1), train_losses=[[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    expected = torch.tensor([1.0, 0.0]).double().div(2).softmax(dim=0) * (2 / 3)
    assert weights[-1, 0] == 1 / 3
    assert torch.allclose(weights[-1, 1:], expected, atol=1e-15)


def test_rlw_draws_from_the_distribution_of_the_paper():
    weights = replay(RLW(seed=5), train_losses=losses(4000, 3))
    logits = weights.log() - weights.log().mean(dim=1, keepdim=True)
    assert (weights.mean(dim=0) - 1 / 3).abs().max() < 0.01
    assert (logits.var(dim=0) - 2 / 3).abs().max() < 0.05  # of normal numbers less their mean: 1 - 1/K
    lagged = (logits[1:] * logits[:-1]).mean(dim=0)
    assert lagged.abs().max() < 0.05


def test_rlw_depends_on_seed_and_record_alone():
    one, other = losses(6, 3), losses(6, 3).flip(0)
    present = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)) > 0.5
    weights = replay(RLW(seed=1), train_losses=one)
    assert torch.equal(weights, replay(RLW(seed=1), train_losses=other, present=present))
    assert not torch.isclose(weights, replay(RLW(seed=2), train_losses=one)).any()


def test_geometric_mean_divides_by_the_losses():
    rows = losses(20, 5)
    expected = rows.reciprocal() / rows.reciprocal().sum(dim=1, keepdim=True)
    assert (replay(GeometricMean(), train_losses=rows) - expected).abs().max() < 1e-15


def test_a_loss_of_zero_takes_all_of_the_geometric_mean():
    weights = replay(GeometricMean(), train_losses=[[1.0, 0.0, 2.0], [0.0, 0.0, 2.0]])
    assert torch.allclose(weights[0], torch.tensor([0.0, 1.0, 0.0]).double(), atol=1e-11)
    assert torch.allclose(weights[1], torch.tensor([0.5, 0.5, 0.0]).double(), atol=1e-11)


def test_a_negative_loss_has_no_geometric_mean():
    with pytest.raises(ValueError, match="non-negative"):
        replay(GeometricMean(), train_losses=[[1.0, -1e-20], [1.0, -1.0]])


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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: UW(lr=0), "`UW.lr` must be a finite number > 0; got 0."),
        (lambda: IMTLL(lr=NAN), "`IMTLL.lr` must be a finite number > 0; got nan."),
        (lambda: DWA(temperature=-1), "`DWA.temperature` must be a finite number > 0; got -1."),
        (lambda: DWA(block_records=1.5), "`DWA.block_records` must be an integer >= 1; got 1.5."),
        (lambda: RLW(seed=-1), "`RLW.seed` must be an integer >= 0; got -1."),
        (lambda: STCH(mu=0.0), "`STCH.mu` must be a finite number > 0; got 0.0."),
        (lambda: STCH(preference=[1, 0]), "`STCH.preference` must be a finite number > 0; got 0."),
        (lambda: STCH(reference=[1, math.inf]), "`STCH.reference` must be a finite number; got inf."),
    ],
)
def test_hyper_parameters_are_checked(wrong, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        wrong()
    assert str(error.value) == message
