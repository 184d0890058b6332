"""DWA: against torchjd, and blocks in which a task is absent."""

import math

import torch
from random_records import losses
from torchjd import scalarization

from lightning_coba.balancers import DWA, replay

NAN = math.nan


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
