import numpy as np
import pytest

from lightning_coba.trend import trend_of


def test_a_line_is_that_of_a_least_squares_fit_through_what_is_finite():
    x = np.arange(9.0)
    y = np.random.default_rng(0).normal(size=9)
    y[[2, 5]] = np.nan, np.inf
    there = np.isfinite(y)
    (slope, _), covariance = np.polyfit(x[there], y[there], 1, cov=True)
    found = trend_of(x, y)
    assert found.slope == pytest.approx(slope)
    assert found.error == pytest.approx(covariance[0, 0] ** 0.5)
    assert found.num_points == 7


def test_two_points_are_no_trend():
    assert not trend_of([1, 2], [1.0, 0.1]).exceeds_noise()
    assert not trend_of([1], [1.0]).exceeds_noise()


@pytest.mark.parametrize("num_points", [3, 5, 10])
def test_noise_exceeds_itself_in_one_of_twenty(num_points):
    draws = np.random.default_rng(1).normal(size=(4000, num_points))
    assert np.mean([trend_of(range(num_points), y).exceeds_noise() for y in draws]) == pytest.approx(0.05, abs=0.012)
