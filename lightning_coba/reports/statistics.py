"""How methods compare over tasks and seeds: pure functions on arrays of losses, NaN where a number is missing."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
#: With fewer tasks than this, resampling them says nothing.
FEWEST_TASKS = 3


def mean_and_deviation(values: ArrayLike) -> tuple[float, float]:
    """Return mean and standard deviation (n - 1) of the finite values.

    The mean of none is NaN, and so is the deviation of fewer than two.

    Example:
        >>> mean_and_deviation([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    there = _finite(values)
    mean = float(there.mean()) if there.size else np.nan
    return mean, float(there.std(ddof=1)) if there.size > 1 else np.nan


def mean_over(values: ArrayLike, axis: int) -> Array:
    """Return the mean along an axis over what is not NaN; NaN where nothing is."""
    array = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(array)
    count = there.sum(axis)
    return np.where(count > 0, np.where(there, array, 0).sum(axis) / np.maximum(count, 1), np.nan)


def relative_change(loss: ArrayLike, reference: ArrayLike) -> Array:
    """Return each task's change of the loss against a reference, -0.02 for 2 % lower.

    Losses are averaged over seeds before they are divided, so that a seed in which both are high counts in both.

    Args:
        loss: ``[seeds, tasks]``.
        reference: ``[seeds, tasks]``, the same seeds and tasks.

    Returns:
        ``[tasks]``; NaN where a loss is missing or the reference is 0.

    Example:
        >>> relative_change([[1.0, 2.0], [2.0, 2.0]], [[2.0, 1.0], [2.0, 1.0]]).tolist()
        [-0.25, 1.0]
    """
    mean, base = np.mean(np.asarray(loss, dtype=np.float64), axis=0), np.mean(np.asarray(reference, np.float64), axis=0)
    return np.divide(mean, base, out=np.full(mean.shape, np.nan), where=base != 0) - 1


def bootstrap_interval(
    changes: ArrayLike, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float] | None:
    """Return the percentile interval of the mean change when the tasks are drawn again.

    It says how far the mean rests on which tasks happened to be in the suite. How another seed would have turned out
    is not in it: seeds are averaged before.

    Args:
        changes: ``[tasks]``, one number per task, averaged over seeds.
        level: share of the resampled means inside the interval, in (0, 1).
        num_resamples: how often the tasks are drawn, with replacement.
        seed: of the draws: the same numbers give the same interval.

    Returns:
        Its two ends; None for fewer than three tasks, whose resamples say nothing.

    Example:
        >>> bootstrap_interval([-0.03, 0.0, 0.03])  # three of a kind come up in 1 of 27 draws, more than 2.5 %
        (-0.03, 0.03)
        >>> bootstrap_interval([-0.03, 0.0]) is None
        True
    """
    there = _finite(changes)
    if there.size < FEWEST_TASKS:
        return None
    drawn = np.random.default_rng(seed).integers(there.size, size=(num_resamples, there.size))
    low, high = np.quantile(there[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_rank(loss: ArrayLike) -> Array:
    """Return each method's rank by loss, taken within each seed and task and then averaged.

    Args:
        loss: ``[methods, seeds, tasks]``.

    Returns:
        ``[methods]``: 1 = always the lowest loss. Equal losses share the mean of their ranks; seeds and tasks in which
        a method is missing are left out.

    Example:
        >>> mean_rank([[[1.0, 5.0]], [[2.0, 5.0]], [[3.0, 4.0]]]).tolist()
        [1.75, 2.25, 2.0]
    """
    cells = np.asarray(loss, dtype=np.float64)
    complete = np.isfinite(cells).all(axis=0)
    ours, others = cells[:, None], cells[None, :]
    ranks = 0.5 + (others < ours).sum(axis=1) + 0.5 * (others == ours).sum(axis=1)
    return mean_over(np.where(complete, ranks, np.nan).reshape(len(cells), -1), axis=1)


def best_step_spread(best_steps: ArrayLike, num_steps: float) -> float:
    """Return how far apart the tasks converge: latest minus earliest best step, as a share of the run's steps.

    Args:
        best_steps: ``[tasks]``, the step at which each task's validation loss was lowest.
        num_steps: optimizer steps of the run.

    Returns:
        0 = all tasks at their best together; NaN for fewer than two tasks or a run of no steps.

    Example:
        >>> best_step_spread([20, 80, 50], 120)
        0.5
    """
    there = _finite(best_steps)
    return float(np.ptp(there) / num_steps) if there.size > 1 and num_steps > 0 else np.nan


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]
