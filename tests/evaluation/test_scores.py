"""Intervals: of the corpus metric, paired, seeded, and as wide as theory says."""

import numpy as np
import pytest
import torch

from lightning_coba.evaluation.metrics import METRICS, ChrF
from lightning_coba.evaluation.scores import difference_of, score_of, statistics_of


def matches(values):
    return torch.tensor([[value, 1.0] for value in values], dtype=torch.float64)


def test_interval_of_a_share_is_that_of_the_binomial():
    values = np.random.default_rng(0).random(400) < 0.3
    score = score_of(METRICS["exact_match"](), matches(values))
    half = 1.96 * np.sqrt(score.value * (1 - score.value) / 400)
    assert score.value == values.mean()
    assert score.low == pytest.approx(score.value - half, abs=0.01)
    assert score.high == pytest.approx(score.value + half, abs=0.01)
    assert score == score_of(METRICS["exact_match"](), matches(values))


def test_interval_of_chrf_is_of_the_corpus_and_not_of_the_mean_of_rows():
    # A long row that is right and a short one that is wrong: the corpus is nearly right, the mean row half.
    answers = [["x" * 3 + "abcdefgh" * 20], ["q"]] * 5
    golds = [["x" * 3 + "abcdefgh" * 20], ["z"]] * 5
    statistics = statistics_of(ChrF(), answers, golds)
    score = score_of(ChrF(), statistics)
    assert ChrF().score(statistics).mean() == pytest.approx(0.5)
    assert score.low > 0.9
    assert score.low <= score.value <= score.high


def test_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(1)
    hard = rng.random(200)
    base, ours = hard > 0.5, hard > 0.45  # better on the same rows
    difference = difference_of(METRICS["exact_match"](), matches(ours), matches(base))
    alone = score_of(METRICS["exact_match"](), matches(ours))
    assert difference.value == pytest.approx(ours.mean() - base.mean())
    assert difference.high - difference.low < 0.7 * (alone.high - alone.low)
    assert difference.low > 0


def test_two_rows_have_no_interval():
    assert score_of(METRICS["exact_match"](), matches([1, 0])).low is None


def test_samples_of_a_row_are_added_up():
    statistics = statistics_of(METRICS["exact_match"](), [["a", "b"], ["c", "c"]], [["a"], ["c"]])
    assert statistics.tolist() == [[1, 2], [2, 2]]
