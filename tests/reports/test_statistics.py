from itertools import product
from math import sqrt

import numpy as np
import pytest

from lightning_coba.reports.statistics import (
    best_step_spread,
    bootstrap_interval,
    mean_and_deviation,
    mean_over,
    mean_rank,
    relative_change,
)

NAN = float("nan")


def test_deviation_over_seeds_has_n_minus_1_and_needs_two():
    mean, deviation = mean_and_deviation([1.0, 2.0, 6.0, NAN])
    assert (mean, deviation) == (3.0, pytest.approx(sqrt((4 + 1 + 9) / 2)))
    assert mean_and_deviation([2.5])[0] == 2.5
    assert np.isnan(mean_and_deviation([2.5])[1])
    assert np.isnan(mean_and_deviation([])).all()


def test_mean_over_leaves_out_what_is_missing():
    np.testing.assert_array_equal(mean_over([[1.0, NAN, NAN], [3.0, 5.0, NAN]], axis=0), [2.0, 5.0, NAN])


def test_change_divides_means_over_seeds_and_not_seeds():
    # Task 0: (1 + 3) / (2 + 2) - 1 = 0. The mean of the seeds' own changes would be (-0.5 + 0.5) / 2 too, task 1's not:
    # (1 + 8) / (2 + 4) - 1 = 0.5, against (-0.5 + 1) / 2 = 0.25.
    np.testing.assert_allclose(relative_change([[1, 1], [3, 8]], [[2, 2], [2, 4]]), [0.0, 0.5], atol=1e-15)


def test_change_against_nothing_is_missing_not_infinite():
    np.testing.assert_array_equal(np.isnan(relative_change([[1.0, 1.0, NAN]], [[0.0, 2.0, 2.0]])), [True, False, True])


def test_interval_of_four_tasks_is_that_of_all_256_draws():
    changes = [-0.08, -0.02, 0.01, 0.03]
    means = sorted(np.mean(draw) for draw in product(changes, repeat=4))
    low, high = bootstrap_interval(changes, num_resamples=200_000)
    assert low == pytest.approx(means[int(0.025 * 256)], abs=0.003)
    assert high == pytest.approx(means[int(0.975 * 256)], abs=0.003)


def test_interval_is_narrower_for_a_lower_level_and_the_same_each_time():
    changes = np.random.default_rng(1).normal(-0.02, 0.05, 12)
    low, high = bootstrap_interval(changes)
    inner_low, inner_high = bootstrap_interval(changes, level=0.5)
    assert low < inner_low < changes.mean() < inner_high < high
    assert bootstrap_interval(changes) == (low, high)
    assert bootstrap_interval(changes, seed=1) != (low, high)


def test_interval_has_the_width_that_theory_gives():
    changes = np.random.default_rng(0).normal(0, 1, 400)
    low, high = bootstrap_interval(changes)
    assert high - low == pytest.approx(2 * 1.96 * changes.std() / sqrt(400), rel=0.03)


def test_two_tasks_have_no_interval_nor_do_three_of_which_one_is_missing():
    assert bootstrap_interval([0.1, 0.2]) is None
    assert bootstrap_interval([0.1, 0.2, NAN]) is None
    assert bootstrap_interval([0.1, 0.1, 0.1]) == pytest.approx((0.1, 0.1))


def test_ranks_are_taken_within_a_seed_and_ties_share():
    # Seed 0: task 0 ranks 1 2 3, task 1 ranks 2.5 2.5 1. Seed 1: 3 2 1 and 1 2 3. Means over the four.
    loss = [[[1, 5], [9, 1]], [[2, 5], [8, 2]], [[3, 4], [7, 3]]]
    np.testing.assert_allclose(mean_rank(loss), [(1 + 2.5 + 3 + 1) / 4, (2 + 2.5 + 2 + 2) / 4, (3 + 1 + 1 + 3) / 4])


def test_ranks_leave_out_cells_in_which_a_method_is_missing():
    np.testing.assert_array_equal(mean_rank([[[1.0, 9.0]], [[2.0, NAN]]]), [1, 2])
    assert np.isnan(mean_rank([[[NAN]], [[1.0]]])).all()


def test_spread_of_best_steps():
    assert best_step_spread([10, 40, NAN], 60) == 0.5
    assert best_step_spread([30, 30], 60) == 0
    assert np.isnan(best_step_spread([30], 60))
    assert np.isnan(best_step_spread([10, 20], 0))
