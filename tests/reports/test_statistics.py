from math import sqrt

import numpy as np
import pytest

from lightning_coba.reports.comparison.effects import LEVEL
from lightning_coba.reports.statistics import (
    best_step_spread,
    mean_and_deviation,
    mean_over,
    mean_rank,
    paired_effect,
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


def test_with_one_task_the_interval_is_that_of_the_paired_t_test():
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.5])
    found = paired_effect(differences[:, None])
    half = 2.776 * differences.std(ddof=1) / sqrt(5)
    assert found.mean == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=1e-3)
    narrower = paired_effect(differences[:, None], level=0.5)
    assert found.low < narrower.low < found.mean < narrower.high < found.high


def test_seeds_that_move_all_tasks_together_are_no_independent_numbers():
    by_seed = np.array([0.9, -0.7, 0.2, 0.6, -0.1])
    together = paired_effect(np.repeat(by_seed[:, None], 6, axis=1))
    alone = paired_effect(by_seed[:, None])
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))


def test_tasks_that_gain_and_lose_widen_the_interval():
    noise = np.random.default_rng(0).normal(0, 0.01, (5, 6))
    alike = paired_effect(noise - 0.05)
    unlike = paired_effect(noise - 0.05 + np.array([0.2, -0.2, 0.1, -0.1, 0.15, -0.15]))
    assert alike.excludes_zero
    assert not unlike.excludes_zero


def test_two_seeds_have_no_interval_and_missing_tasks_are_left_out():
    two = paired_effect([[0.1, 0.1], [0.1, 0.1]])
    assert two.mean == pytest.approx(0.1)
    assert not two.excludes_zero
    holed = paired_effect([[0.1, NAN], [0.1, 0.5], [0.1, 0.5]])
    assert (holed.mean, holed.low) == (pytest.approx(0.1), pytest.approx(0.1))
    assert np.isnan(paired_effect([[NAN], [NAN], [0.1]]).mean)


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("shared", [0.0, 0.5, 3.0], ids=lambda shared: f"shared {shared}")
def test_noise_is_taken_for_a_difference_in_at_most_one_of_twenty(num_seeds, shared):
    draw = np.random.default_rng(0).normal
    noise = [shared * draw(size=(num_seeds, 1)) + draw(size=(num_seeds, 6)) for _ in range(2000)]
    assert np.mean([paired_effect(one).excludes_zero for one in noise]) < 0.06
    spread = sqrt(shared**2 + 1 / 6)  # of the mean over tasks, from seed to seed
    found = np.mean([paired_effect(one + 2 * spread).excludes_zero for one in noise])
    assert found > (0.8 if num_seeds == 5 else 0.35)


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


@pytest.mark.parametrize("shared", [0.0, 0.5, 5.0])
def test_noise_is_rarely_claimed_and_a_difference_of_twice_the_spread_mostly_is(shared):
    rng = np.random.default_rng(3)
    noise = shared * rng.normal(size=(2000, 5, 1)) + rng.normal(size=(2000, 5, 6))  # 2000 sweeps, 5 seeds, 6 tasks
    true_difference = 2 * noise.mean(axis=2).std()
    assert np.mean([paired_effect(sweep, LEVEL).excludes_zero for sweep in noise]) <= 0.05
    assert np.mean([paired_effect(sweep + true_difference, LEVEL).low > 0 for sweep in noise]) >= 0.8
