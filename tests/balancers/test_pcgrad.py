"""PCGrad: against torchjd with the same draws, and what they depend on."""

import torch
from random_records import gramians
from torchjd import aggregation

from lightning_coba.balancers import Observation, PCGrad, replay
from lightning_coba.balancers.torchjd_adapter import drawing


def test_pcgrads_weights_are_those_of_torchjd_with_its_draws():
    matrices = gramians(12, 5, shared=0.0)
    weights = replay(PCGrad(seed=3), gramian=matrices)
    for record, matrix in enumerate(matrices, start=1):
        with drawing(3, record):
            summed = aggregation.PCGradWeighting()(matrix)
        assert (weights[record - 1] - summed / summed.sum()).abs().max() < 1e-12


def test_pcgrads_order_depends_on_seed_and_record_alone():
    matrices = gramians(1, 5, shared=0.0).expand(8, 5, 5)
    weights = replay(PCGrad(), gramian=matrices)
    assert len({tuple(row) for row in weights.tolist()}) > 4  # one matrix, other orders
    assert torch.equal(weights, replay(PCGrad(), gramian=matrices))
    assert not torch.allclose(weights, replay(PCGrad(seed=1), gramian=matrices))


def test_the_scale_is_the_sum_that_weights_were_divided_by():
    matrix = torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64)
    state, _ = PCGrad().update(
        PCGrad().init(2), Observation(step=1, present=torch.ones(2, dtype=torch.bool), gramian=matrix)
    )
    assert state.scale == 1 + 1 + 1 + 0.25
