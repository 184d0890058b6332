"""Whether a series rises or falls by more than it scatters: a straight line, and a t test of its slope."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lightning_coba.student_t import critical_t

#: Two-sided level at which a slope is told from none, unless another one is given.
LEVEL = 0.05
#: Through two points goes a line that says nothing about its error.
FEWEST_POINTS = 3


class Trend(NamedTuple):
    """The line through some points.

    Attributes:
        slope: Change of the series per unit of x; 0 for fewer than two points.
        error: Its standard error; inf for fewer than three points.
        num_points: Points that it goes through.
    """

    slope: float
    error: float
    num_points: int

    def exceeds_noise(self, level: float = LEVEL) -> bool:
        """Return whether the slope differs from 0 at this level of a two-sided t test; False for two points."""
        if self.num_points < FEWEST_POINTS:
            return False
        return abs(self.slope) > critical_t(level, self.num_points - 2) * self.error


def trend_of(x: ArrayLike, y: ArrayLike) -> Trend:
    """Return the line of least squares through the points whose y is finite.

    Args:
        x: ``[n]``.
        y: ``[n]``; NaN and inf are left out.

    Example:
        >>> found = trend_of([1, 2, 3, 4, 5], [2.0, 1.8, 1.7, 1.5, 1.4])
        >>> round(found.slope, 3), found.exceeds_noise()
        (-0.15, True)
        >>> trend_of([1, 2, 3, 4, 5], [1.0, 1.02, 0.99, 1.01, 1.02]).exceeds_noise()
        False
    """
    series = np.asarray(y, dtype=np.float64)
    there = np.isfinite(series)
    points, places = series[there], np.asarray(x, dtype=np.float64)[there]
    if len(points) < 2:
        return Trend(0.0, np.inf, len(points))
    dx = places - places.mean()
    spread = float(dx @ dx)
    slope = float(dx @ points) / spread
    if len(points) < FEWEST_POINTS:
        return Trend(slope, np.inf, len(points))
    residuals = points - points.mean() - slope * dx
    return Trend(slope, float(np.sqrt(residuals @ residuals / (len(points) - 2) / spread)), len(points))
