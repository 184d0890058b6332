"""How methods compare over tasks and seeds: pure functions on arrays of losses, NaN where a number is missing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_coba.student_t import critical_t

Array = NDArray[np.float64]
#: With fewer seeds than this, how much they differ is not known well enough to tell anything from it.
FEWEST_SEEDS = 3


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


@dataclass(frozen=True)
class PairedEffect:
    """Hold a mean paired difference.

    Attributes:
        mean: Mean over seeds and tasks; NaN without a number.
        low: Lower end of its interval; NaN where there is none.
        high: Upper end.
    """

    mean: float = np.nan
    low: float = np.nan
    high: float = np.nan

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval, and 0 lies outside it."""
        return self.low > 0 or self.high < 0


def paired_effect(differences: ArrayLike, level: float = 0.95) -> PairedEffect:
    r"""Return the mean of paired differences with an interval over seeds and tasks.

    Seeds and tasks are both random: another seed gives other numbers, and other tasks would gain more or less. In the
    mean squares of a two-way layout without replication,

    .. math:: \mathrm{SE}^2 = \frac{\max(MS_{seed}, MS_{cell}) + \max(MS_{task} - MS_{cell}, 0)}{S K}

    with a t interval of Satterthwaite's degrees of freedom (rounded down). Where seeds differ by no more than their
    cells do, both are taken together. With one task the interval is that of the paired t test over seeds.

    Args:
        differences: ``[S, K]``, method - reference for S seeds and K tasks. A task with a missing number is left out.
        level: Probability that the interval covers the true mean, in (0, 1).

    Returns:
        No interval for fewer than `FEWEST_SEEDS` seeds.

    Example:
        >>> effect = paired_effect([[-0.031], [-0.024], [-0.029], [-0.020], [-0.026]])
        >>> print(f"{effect.mean:.3f} {effect.low:.3f} {effect.high:.3f}")
        -0.026 -0.031 -0.021

    References:
        Searle, Casella and McCulloch, "Variance Components", 1992; `benchmarks/report_claims.py` measures how often
        an interval leaves 0 out where there is no difference, and where there is one.
    """
    cells = np.asarray(differences, dtype=np.float64)
    cells = cells[:, np.isfinite(cells).all(axis=0)]
    seeds, tasks = cells.shape
    if not tasks:
        return PairedEffect()
    mean = float(cells.mean())
    if seeds < FEWEST_SEEDS:
        return PairedEffect(mean)
    of_seeds, of_tasks = cells.mean(axis=1) - mean, cells.mean(axis=0) - mean
    rest = cells - mean - of_seeds[:, None] - of_tasks
    between_seeds = tasks * float(of_seeds @ of_seeds) / (seeds - 1)
    within = float((rest**2).sum()) / ((seeds - 1) * max(tasks - 1, 1))
    between_tasks = max(seeds * float(of_tasks @ of_tasks) / max(tasks - 1, 1) - within, 0.0)
    # Of two estimates of one variance the larger one; with both, its degrees of freedom are those of both.
    noise, known = max(between_seeds, within), (seeds - 1) * (1 if between_seeds > within else tasks)
    variance = noise + between_tasks
    freedom = variance**2 / (noise**2 / known + between_tasks**2 / max(tasks - 1, 1)) if variance else known
    half = critical_t(1 - level, max(int(freedom), 1)) * float(np.sqrt(variance / (seeds * tasks)))
    return PairedEffect(mean, mean - half, mean + half)


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
