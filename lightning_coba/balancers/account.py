"""What the weights of a run did and why, in sentences: for a person who has the numbers beside them."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_coba.trend import trend_of

Array = NDArray[np.float64]
#: Weights that stay within this share of the equal one have done what uniform weights do.
NOTICEABLE = 0.1
#: Weights that differ from the equal one by less than this share are written as equal.
EQUAL = 0.005
#: So many names are listed in a sentence.
MOST_NAMES = 4


def account(
    tasks: Sequence[str], history: Mapping[str, Any], window: int | None = None, num_steps: float = np.nan
) -> list[str]:
    """Say what the weights of a run did, the most important sentence first, and of CoBa why.

    Args:
        tasks: Names of the K tasks, or of what else has a share.
        history: Columns of T records: ``step`` ``[T]`` and ``weight`` ``[T, K]``, and of CoBa ``ratio``, ``slope``,
            ``rcs`` ``[T, K]`` and ``divergence_factor`` ``[T]``; NaN where a record has none.
        window: Records that CoBa's slopes look back on; None = all, for a balancer without a window.
        num_steps: Optimizer steps of the run; NaN = up to the last record.

    Returns:
        One sentence or more; no gain in loss is claimed, which a single run cannot show.

    Example:
        >>> history = {"step": [10, 20, 30], "weight": [[0.5, 0.5], [0.51, 0.49], [0.52, 0.48]]}
        >>> account(["code", "qa"], history)
        ['The weights stayed within 2 % of equal: uniform weights would have done the same.']
    """
    steps, weights = np.asarray(history["step"], dtype=np.float64), _table(history, "weight")
    if not len(steps):
        return ["There is no record yet, so the weights are equal."]
    sentences = [_what_they_did(tasks, steps, len(tasks) * weights, num_steps)]
    slopes, factors = _table(history, "slope", weights), np.asarray(history.get("divergence_factor", []), np.float64)
    window = window or len(steps)
    scored = np.flatnonzero(np.isfinite(factors))
    if scored.size and len(tasks) > 1:
        t = int(scored[-1])
        since = slice(max(t + 1 - window, int(scored[0])), t + 1)  # the slopes that the absolute score looks back on
        paces = own_paces(slopes[t], slopes[since])
        ratios = _table(history, "ratio", weights)
        rising = [_rises(ratios, t, k, window) for k in range(len(tasks))]
        sentences += scores_in_words(tasks, len(tasks) * weights[t], slopes[t], paces, factors[t], rising)
        sentences += _misread(tasks, history, window)
    return sentences


def weights_in_words(tasks: Sequence[str], multiples: ArrayLike, on_average: bool = False) -> str:
    """Say who has more and who has less than the equal share.

    Args:
        tasks: Names.
        multiples: Shares as multiples of the equal one, ``[K]``.
        on_average: Whether they are means over the run.

    Example:
        >>> weights_in_words(["code", "qa", "sql"], [1.6, 0.45, 0.95])
        'code has 1.60 times the equal share, qa 0.45.'
    """
    found = np.asarray(multiples, dtype=np.float64)
    order = np.argsort(-found, kind="stable").tolist()
    more = [k for k in order if found[k] > 1 + NOTICEABLE]
    less = [k for k in order[::-1] if found[k] < 1 - NOTICEABLE]
    shown = more[:MOST_NAMES] + less[:MOST_NAMES]
    if not shown:
        return f"Every share is within {_percent(NOTICEABLE)} of the equal one."
    verb, when = ("got", " on average") if on_average else ("has", "")
    told = [f"{tasks[shown[0]]} {verb} {found[shown[0]]:.2f} times the equal share{when}"]
    told += [f"{tasks[k]} {found[k]:.2f}" for k in shown[1:]]
    left_out = len(more) + len(less) - len(shown)
    return f"{', '.join(told)}{f'; {left_out} more tasks differ from it too' if left_out else ''}."


def scores_in_words(
    tasks: Sequence[str],
    multiples: ArrayLike,
    slopes: ArrayLike,
    paces: ArrayLike,
    factor: float,
    rising: ArrayLike,
) -> list[str]:
    """Say why CoBa gives the tasks the shares that they have.

    Args:
        tasks: Names.
        multiples: Shares as multiples of the equal one, ``[K]``.
        slopes: Change of the loss ratio per record, ``[K]``.
        paces: Slope relative to the task's own recent ones, ``[K]``; see `own_paces`.
        factor: The divergence factor.
        rising: Whose loss rises by more than noise explains, bool ``[K]``.
    """
    share, slope, pace = (np.asarray(values, dtype=np.float64) for values in (multiples, slopes, paces))
    rises = np.asarray(rising, dtype=bool)
    relative = factor >= 0.5
    begin = f"The divergence factor is {factor:.2f}, so "
    if relative:
        begin += "the relative score decides: it compares the tasks with each other, and the slowest gets most."
    else:
        begin += "the absolute score decides: it compares each task's slope with that task's own recent slopes."
        if not rises.any():
            begin += " The factor is low because the slowest task is slower than earlier in the run; nothing diverges."
    known = np.isfinite(slope) & np.isfinite(pace)
    moved = [k for k in np.argsort(-share, kind="stable").tolist() if known[k] and abs(share[k] - 1) > NOTICEABLE]
    chosen = moved if len(moved) <= 2 else [moved[0], moved[-1]]
    slowest = int(np.argmax(np.where(known, slope, -np.inf)))
    return [
        begin,
        *(
            f"{tasks[k]} has {share[k]:.2f} times the equal share: "
            f"{_why(share[k] > 1, slope[k], pace[k], relative, bool(rises[k]), k == slowest, not rises.any())}."
            for k in chosen
        ),
    ]


def own_paces(slopes: ArrayLike, recent: ArrayLike) -> Array:
    """Return how fast each loss falls relative to its own recent slopes: 1 = as ever, 0 = flat, below 0 = it rises.

    It is the logit of CoBa's absolute score.

    Args:
        slopes: ``[K]`` of now.
        recent: ``[n, K]``, those of now among them; NaN where a record has none.
    """
    now, seen = np.asarray(slopes, dtype=np.float64), np.asarray(recent, dtype=np.float64)
    number = np.isfinite(seen).sum(axis=0)
    mean = np.nansum(np.abs(seen), axis=0) / np.maximum(number, 1)
    return np.divide(-now, mean, out=np.zeros_like(now), where=mean > 0)


def _what_they_did(tasks: Sequence[str], steps: Array, multiples: Array, num_steps: float) -> str:
    """Return whether the weights did anything in the steps in which they were in force."""
    ends = np.append(steps[1:], num_steps if np.isfinite(num_steps) else steps[-1])
    lasted = np.where(ends >= steps, ends - steps, ends)  # a second fit counts its steps from 1
    if not lasted.any():
        lasted[-1] = 1
    acted = np.nan_to_num(multiples[lasted > 0], nan=1.0)
    largest = float(np.abs(acted - 1).max())
    if largest < EQUAL:
        return "The weights stayed equal."
    if largest <= NOTICEABLE:
        within = _percent(ceil(round(100 * largest, 6)) / 100)
        return f"The weights stayed within {within} of equal: uniform weights would have done the same."
    before = max(float(steps[0]), 0.0)  # equal until the first record
    mean = (before + (lasted[lasted > 0][:, None] * acted).sum(axis=0)) / (before + lasted.sum())
    if np.abs(mean - 1).max() > NOTICEABLE:
        return weights_in_words(tasks, mean, on_average=True)
    return (
        f"The weights moved by up to {_percent(largest)} of the equal share, but every task's average over the run "
        f"is within {_percent(NOTICEABLE)} of equal: uniform weights would have given nearly the same mixture."
    )


def _why(more: bool, slope: float, pace: float, relative: bool, rises: bool, slowest: bool, calm: bool) -> str:
    if rises or slope >= 0:
        falls = "its loss rises" if rises else "its loss is flat"
        return f"{falls}, which the relative score takes for the slowest task" if relative and slowest else falls
    if relative:
        place = "the slowest of all" if slowest else f"{'more slowly' if more else 'faster'} than the others"
        return f"its loss falls by {-slope:.2g} of V(0) per record, {place}"
    recent = f"its loss falls at {pace:.1f} times its own recent pace"
    recent = recent if pace >= 0.05 else "its loss has almost stopped falling, measured by its own recent pace"
    if more:
        return f"{recent}, and the others are further below theirs"
    although = ", although it is the slowest task" + (" and nothing diverges" if calm else "") if slowest else ""
    return f"{recent}, and the others are nearer to theirs; so it loses weight{although}"


def _rises(ratios: Array, t: int, k: int, window: int) -> bool:
    """Return whether a loss rises in the window that ends with record t by more than noise explains."""
    recent = ratios[max(t + 1 - window, 0) : t + 1, k]
    found = trend_of(range(len(recent)), recent)
    return found.slope > 0 and found.exceeds_noise()


def _misread(tasks: Sequence[str], history: Mapping[str, Any], window: int) -> list[str]:
    """Warn of records in which the relative score took an overfitting task for the slowest one."""
    weights = _table(history, "weight")
    slopes, rcs, ratios = (_table(history, name, weights) for name in ("slope", "rcs", "ratio"))
    largest = np.nan_to_num(rcs, nan=-1.0)
    suspects = (
        (np.asarray(history["divergence_factor"], dtype=np.float64) >= 0.5)[:, None]
        & (largest == largest.max(axis=1, keepdims=True))
        & (len(tasks) * weights > 1 + NOTICEABLE)
        & (slopes > 0)
        & (slopes < 0).any(axis=1, keepdims=True)
    )
    sentences = []
    for k in np.flatnonzero(suspects.any(axis=0)).tolist():
        records = [t + 1 for t in np.flatnonzero(suspects[:, k]).tolist() if _rises(ratios, t, k, window)]
        if len(records) > 1:
            sentences.append(
                f"Warning: in {len(records)} records ({records[0]} to {records[-1]}) {tasks[k]} got most weight while "
                "its validation loss was rising. The relative score takes a task that overfits for the slowest one; "
                f"hold it down with balancer.prior={{{tasks[k]}: 0.5}}, or train it for fewer steps."
            )
    return sentences


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _table(history: Mapping[str, Any], name: str, like: Array | None = None) -> Array:
    """Return a column ``[T, K]``; NaN where the history has none."""
    if name not in history:
        assert like is not None
        return np.full_like(like, np.nan)
    return np.asarray(history[name], dtype=np.float64)
