"""NashMTL: its equation, torchjd where both solve it, and searches that fail or are left out."""

import itertools

import pytest
import torch
from random_records import gramians
from torchjd import aggregation

from lightning_coba.balancers import NashMTL, Observation, replay


def test_nash_solves_its_equation_and_goes_on_from_the_last_solution():
    matrices = gramians(10, 4)
    state = NashMTL().init(4)
    for t, matrix in enumerate(matrices):
        state, weights = NashMTL().update(
            state, Observation(step=t, present=torch.ones(4, dtype=torch.bool), gramian=matrix)
        )
        # weights = scale-free alpha: alpha_i (G alpha)_i is the same for all tasks
        products = weights * (matrix @ weights)
        assert (products / products.mean() - 1).abs().max() < 1e-4
        cosines = matrix / matrix.diagonal().sqrt() / matrix.diagonal().sqrt()[:, None]
        assert (state.alpha * (cosines @ state.alpha) - 1).abs().max() < 1e-4
    assert state.num_unsolved == 0


def test_nash_is_that_of_torchjd_where_both_solve():
    vectors = torch.randn(3, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    drift = 0.05 * torch.randn(5, 3, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weighting = aggregation.NashMTL(3, max_norm=0.0).weighting
    vectors = vectors + drift.cumsum(dim=0)
    with pytest.warns(UserWarning, match="not DPP"):
        alphas = torch.stack([weighting(matrix) for matrix in vectors])
    weights = replay(NashMTL(), gramian=vectors @ vectors.mT)
    assert (weights - alphas / alphas.sum(dim=1, keepdim=True)).abs().max() < 1e-5


def test_nash_counts_what_it_could_not_solve_and_keeps_alpha():
    everyone = torch.ones(2, dtype=torch.bool)
    balancer = NashMTL()
    state = balancer.init(2)
    solvable = torch.tensor([[1.0, 0.5], [0.5, 4.0]])
    state, _ = balancer.update(state, Observation(step=1, present=everyone, gramian=solvable))
    solved = state.alpha
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    state, weights = balancer.update(state, Observation(step=2, present=everyone, gramian=opposite))
    assert state.num_unsolved == 1
    assert torch.equal(state.alpha, solved)
    assert torch.allclose(weights, torch.tensor([0.5, 0.5]).double(), atol=1e-4)


def test_nash_searches_every_n_records():
    matrices = gramians(7, 3)
    balancer, state, alphas = NashMTL(every_n_records=3), NashMTL().init(3), []
    for t, matrix in enumerate(matrices):
        state, _ = balancer.update(state, Observation(step=t, present=torch.ones(3, dtype=torch.bool), gramian=matrix))
        alphas.append(state.alpha)
    assert [bool(torch.equal(one, other)) for one, other in itertools.pairwise(alphas)] == [
        True, True, False, True, True, False,
    ]  # fmt: skip
