"""What methods on training losses share: learned weights, tasks that are absent, checks of hyper-parameters."""

import math

import pytest
import torch
from random_records import losses
from torchjd import scalarization

from lightning_coba.balancers import DWA, IMTLL, RLW, STCH, UW, GeometricMean, Observation, replay

NAN = math.nan


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
