"""Mann and Kendall's test for a trend: whether a series falls or rises more steadily than chance explains."""

from functools import cache
from itertools import accumulate
from math import inf

from torch import Tensor

from lightning_coba.functional.arrays import namespace

#: Points of a longer series that are compared, evenly spread: all pairs of them are looked at.
MOST_POINTS = 100


def kendall_scores(x: Tensor, y: Tensor, mask: Tensor, resolution: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Return Kendall's S of each series: pairs of points that rise less pairs that fall.

    .. math:: S = \sum_{s < t} \mathrm{sign}(y_t - y_s)

    Args:
        x: Order of the points, shape ``[N]``, all different.
        y: Series, shape ``[K, N]``.
        mask: Which points exist, bool, shape ``[K, N]``.
        resolution: Points that differ by less, in the unit of y, count as equal.

    Returns:
        S and the number of points that were compared, both of shape ``[K]``.

    Example:
        >>> import torch
        >>> y = torch.tensor([[0.9, 0.5, 0.4, 0.2], [0.9, 0.5, 0.6, 0.9]])
        >>> [found.tolist() for found in kendall_scores(torch.arange(4), y, torch.ones(2, 4, dtype=torch.bool))]
        [[-6.0, 1.0], [4, 4]]

    References:
        Mann, "Nonparametric Tests Against Trend", Econometrica 1945; Kendall, "Rank Correlation Methods", 1948.
    """
    xp = namespace(y)
    stride = -(-y.shape[-1] // MOST_POINTS)
    x, y, mask = x[::stride], y[:, ::stride], mask[:, ::stride]
    known = xp.where(mask, y, 0.0)
    rises = known[:, None, :] - known[:, :, None]  # from the second index to the third
    told = xp.sign(rises) * (abs(rises) > resolution) * (mask[:, None, :] & mask[:, :, None])
    return (told * xp.sign(x[None, :] - x[:, None])).sum((-1, -2)) / 2, mask.sum(-1)


@cache
def critical_kendall(level: float, num_points: int) -> float:
    r"""Return the smallest \|S\| that points in random order reach with this probability or less; inf if there is none.

    The distribution is exact: S is the number of pairs less twice the inversions of a random permutation.

    Args:
        level: Two-sided level, in (0, 1).
        num_points: N.

    Example:
        >>> [critical_kendall(0.05, n) for n in (4, 5, 10)]  # all of the 10 pairs of 5 points, 23 of the 45 of 10
        [inf, 10.0, 23.0]
    """
    pairs = num_points * (num_points - 1) // 2
    critical, tail = inf, 0.0
    for inversions, chance in enumerate(_inversions(num_points)):
        score = pairs - 2 * inversions
        tail += 2 * chance
        if score <= 0 or tail > level * (1 + 1e-9):
            break
        critical = float(score)
    return critical


@cache
def _inversions(num_points: int) -> tuple[float, ...]:
    """Return the probability of 0, 1, ... inversions in a random permutation of so many points."""
    if num_points < 2:
        return (1.0,)
    before = _inversions(num_points - 1)  # the last point has 0 to num_points - 1 of them with those before it
    summed = [0.0, *accumulate(before)]
    return tuple(
        (summed[min(i + 1, len(before))] - summed[max(i + 1 - num_points, 0)]) / num_points
        for i in range(len(before) + num_points - 1)
    )
