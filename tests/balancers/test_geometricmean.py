"""GeometricMean: its formula, and losses of 0 or below."""

import pytest
import torch
from random_records import losses

from lightning_coba.balancers import GeometricMean, replay


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
