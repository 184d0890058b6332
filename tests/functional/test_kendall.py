"""Mann and Kendall's test: its scores, its exact distribution, and what it says of noise."""

from itertools import permutations
from math import inf

import numpy as np
import pytest
import torch

from lightning_coba.functional.kendall import MOST_POINTS, critical_kendall, kendall_scores


def score_of(values):
    return sum(np.sign(later - value) for i, value in enumerate(values) for later in values[i + 1 :])


def test_scores_are_pairs_that_rise_less_pairs_that_fall():
    y = np.random.default_rng(0).normal(size=(3, 8))
    mask = np.ones((3, 8), dtype=bool)
    mask[1, [0, 5]] = mask[2, 2:] = False
    order = np.array([3, 4, 5, 6, 7, 0, 1, 2])  # of a ring: the oldest point is the sixth
    hidden = np.where(mask, y, np.nan)
    for kind in (np.asarray, torch.from_numpy):
        scores, points = kendall_scores(kind(order), kind(hidden), kind(mask))
        assert points.tolist() == [8, 6, 2]
        in_order = np.argsort(order)
        assert scores.tolist() == [score_of(y[k, in_order][mask[k, in_order]]) for k in range(3)]


def test_what_lies_within_the_resolution_is_equal():
    y = torch.tensor([[1.0, 0.9995, 0.99, 0.9]])
    everyone = torch.ones(1, 4, dtype=torch.bool)
    assert kendall_scores(torch.arange(4), y, everyone, 1e-3)[0].tolist() == [-5]


@pytest.mark.parametrize("level", [0.2, 0.05, 0.01])
def test_critical_scores_are_those_of_all_orders(level):
    for n in range(2, 8):
        found = np.array([abs(score_of(order)) for order in permutations(range(n))])
        reached = [score for score in sorted({*found}) if np.mean(found >= score) <= level + 1e-9]
        assert critical_kendall(level, n) == (reached[0] if reached else inf)


def test_a_long_series_is_looked_at_in_places():
    y = torch.arange(1000.0)[None]
    scores, points = kendall_scores(torch.arange(1000), y, torch.ones(1, 1000, dtype=torch.bool))
    assert points.item() == MOST_POINTS
    assert scores.item() == MOST_POINTS * (MOST_POINTS - 1) / 2
