"""Student's t distribution, for the few places that tell a difference from noise: SciPy would be a large dependency."""

from functools import cache
from math import atan, cos, pi, sin, sqrt

#: Halvings of an interval that leave nothing of a double to settle.
_HALVINGS = 200


def two_sided_p(t: float, degrees_of_freedom: int) -> float:
    r"""Return the probability that noise alone gives a \|t\| as large as this.

    Args:
        t: Estimate / its standard error.
        degrees_of_freedom: Integer >= 1.

    Returns:
        In [0, 1].

    Example:
        >>> round(two_sided_p(2.776, 4), 3)
        0.05

    References:
        Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    n = degrees_of_freedom
    angle = atan(abs(t) / sqrt(n))
    if n % 2:  # angle + sin (cos + 2/3 cos^3 + ...), over pi / 2
        term, total, first = cos(angle), 0.0, 2
    else:  # sin (1 + 1/2 cos^2 + ...)
        term, total, first = 1.0, 0.0, 1
    for k in range(first, n, 2):
        total += term
        term *= cos(angle) ** 2 * k / (k + 1)
    inside = 2 / pi * (angle + sin(angle) * total) if n % 2 else sin(angle) * total
    return min(max(1 - inside, 0.0), 1.0)


@cache
def critical_t(level: float, degrees_of_freedom: int) -> float:
    r"""Return the \|t\| that noise alone exceeds with this probability.

    Args:
        level: Two-sided level, in (0, 1): 0.05 for a 95 % interval.
        degrees_of_freedom: Integer >= 1.

    Example:
        >>> round(critical_t(0.05, 4), 3), round(critical_t(0.05, 1), 1)
        (2.776, 12.7)
    """
    low, high = 0.0, 1.0
    while two_sided_p(high, degrees_of_freedom) > level:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, degrees_of_freedom) > level else (low, middle)
    return high
