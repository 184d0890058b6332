"""What a comparison shows: each method's difference to uniform weights, and whether it is more than noise."""

from typing import Literal

import numpy as np

from lightning_coba.reports.comparison.comparing import Comparison
from lightning_coba.reports.formats import DASH, percent
from lightning_coba.reports.result_names import is_share
from lightning_coba.reports.statistics import Array, PairedEffect, paired_effect

#: Probability that all intervals of one result hold at once. At 0.95, noise that all tasks of a run share is claimed to
#: be a difference in exactly one of twenty sweeps; 0.97 misses too many true ones (`benchmarks/report_claims.py`).
LEVEL = 0.96
#: How such an interval is named wherever one is shown.
INTERVAL = f"{100 * LEVEL:.0f} % interval"
#: To so many digits a difference is printed: 0.1 % of a loss, 0.1 points of a share.
DIGITS = 3
Shown = Literal["better", "worse", "no difference shown", "the same"]


def differences(comparison: Comparison, key: str, method: int) -> Array:
    """Return a method's differences to uniform weights, ``[S, P]``.

    Of a result that is to be low, a loss, they are relative to uniform weights: -0.02 for 2 % lower. Those of one
    that is to be high, a score, are plain.
    """
    assert comparison.reference is not None
    result = comparison.results[key]
    ours, theirs = result.values[method], result.values[comparison.reference]
    if not is_relative(comparison, key):
        return np.asarray(ours - theirs)
    return np.divide(ours, theirs, out=np.full(ours.shape, np.nan), where=theirs != 0) - 1


def is_relative(comparison: Comparison, key: str) -> bool:
    """Return whether differences of a result are relative ones."""
    return comparison.results[key].better == "min"


def others(comparison: Comparison) -> list[int]:
    """Return the numbers of the methods that are compared with uniform weights; none without a uniform run."""
    return [m for m in range(len(comparison.methods)) if comparison.reference not in (None, m)]


def effect(comparison: Comparison, key: str, method: int) -> PairedEffect:
    """Return the mean difference over seeds and tasks.

    The intervals of all methods hold at once with a probability of `LEVEL` (Bonferroni): of many methods, some
    would otherwise leave 0 out by chance.
    """
    return paired_effect(differences(comparison, key, method), 1 - (1 - LEVEL) / len(others(comparison)))


def task_effects(comparison: Comparison, key: str, method: int) -> list[PairedEffect]:
    """Return the mean difference of each part over seeds, each with an interval for it alone."""
    return [paired_effect(of_part[:, None], LEVEL) for of_part in differences(comparison, key, method).T]


def shown(comparison: Comparison, key: str, method: int) -> Shown:
    """Return what a method is shown to be against uniform weights.

    A difference is shown where its interval leaves 0 out and where it can be seen in the digits that are printed.
    """
    assert comparison.reference is not None
    values = comparison.results[key].values
    ours, theirs = values[method], values[comparison.reference]
    if np.isfinite(ours).any() and np.array_equal(ours, theirs, equal_nan=True):
        return "the same"
    found = effect(comparison, key, method)
    if not found.excludes_zero or is_invisible(found):
        return "no difference shown"
    return "better" if (found.mean < 0) == (comparison.results[key].better == "min") else "worse"


def is_invisible(found: PairedEffect) -> bool:
    """Return whether a difference is 0 in the digits that are printed."""
    return round(found.mean, DIGITS) == 0


def difference_in_words(comparison: Comparison, key: str, value: float) -> str:
    """Write a difference with its sign: in percent, in points of a percentage, or as it is."""
    if is_relative(comparison, key):
        return percent(value)
    return f"{percent(value)[:-2]} points" if is_share(key) else f"{value:+.3f}"


def interval_in_words(comparison: Comparison, key: str, method: int) -> str:
    """Write the interval of a method's difference; a dash where there is none."""
    found = effect(comparison, key, method)
    if not np.isfinite(found.low):
        return DASH
    scale = 100 if is_relative(comparison, key) or is_share(key) else 1
    unit = " %" if is_relative(comparison, key) else " points" if is_share(key) else ""
    places = 1 if scale == 100 else 3
    ends = [scale * end for end in (found.low, found.high)]
    # An end that is not 0 is not written as 0.
    written = [f"{end:+.{places}f}" if abs(end) >= 0.5 * 10**-places or not end else f"{end:+.1g}" for end in ends]
    return f"{written[0]} .. {written[1]}{unit}"
