"""Scores with intervals: the rows are drawn again, and the metric is computed of each draw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_coba.evaluation.metrics import TextMetric

#: With fewer rows than this, drawing them again says nothing.
FEWEST_ROWS = 3
NUM_RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Score:
    """A number with its interval.

    Attributes:
        value: of all rows.
        low: end of the 95 % percentile interval; None for fewer than three rows.
        high: the other end.
    """

    value: float
    low: float | None = None
    high: float | None = None


def score_of(metric: TextMetric, statistics: Tensor) -> Score:
    """Return a metric over rows with its bootstrap interval.

    Args:
        metric: which one.
        statistics: of the rows, float64 ``[rows, S]``; see `TextMetric.statistics`.
    """
    return _score(lambda drawn: metric.score(drawn @ statistics), len(statistics))


def difference_of(metric: TextMetric, statistics: Tensor, base: Tensor) -> Score:
    """Return how much better a metric is than on the same rows of another model, with its interval.

    The rows are drawn in pairs, so what makes a row hard for both does not widen the interval.

    Args:
        metric: which one.
        statistics: of the rows, float64 ``[rows, S]``.
        base: of the same rows, answered by the other model.
    """
    return _score(lambda drawn: metric.score(drawn @ statistics) - metric.score(drawn @ base), len(statistics))


def statistics_of(metric: TextMetric, answers: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> Tensor:
    """Return the statistics of rows, float64 ``[rows, S]``; several answers to a row are added up.

    Args:
        metric: which one.
        answers: the answers to each row.
        targets: the right ones.
    """
    rows = [
        np.sum([metric.statistics(answer, golds) for answer in mine], axis=0)
        for mine, golds in zip(answers, targets, strict=True)
    ]
    return torch.from_numpy(np.array(rows, dtype=np.float64))


def _score(of_draws: Callable[[Tensor], Tensor], num_rows: int) -> Score:
    """Return a number with its interval; `of_draws` computes it from how often each row is drawn, ``[draws, rows]``."""
    value = float(of_draws(torch.ones(1, num_rows, dtype=torch.float64)))
    if num_rows < FEWEST_ROWS:
        return Score(value)
    counts = np.random.default_rng(0).multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=NUM_RESAMPLES)
    resampled = of_draws(torch.from_numpy(counts.astype(np.float64)))
    low, high = np.nanquantile(resampled.numpy(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(value, float(low), float(high))
