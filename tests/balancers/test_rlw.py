"""RLW: its distribution, and what its draws depend on."""

import torch
from random_records import losses

from lightning_coba.balancers import RLW, replay


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
