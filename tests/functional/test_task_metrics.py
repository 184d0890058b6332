"""Accuracy and exact match of tasks against a count in Python."""

import pytest
import torch
from torch.nn import functional as F

from lightning_coba.functional import chunked_task_metrics

N, H, V, K, ROWS = 60, 8, 6, 4, 40


@pytest.fixture
def data():
    """Hidden states, targets, tasks and rows, of which some are never used and one task has none."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(N, H, generator=generator, dtype=torch.float64)
    rows = torch.randint(1, ROWS // 2, (N,), generator=generator) * 2
    targets = torch.randint(V, (N,), generator=generator)
    return hidden, targets, rows // 2 % (K - 1), rows


@pytest.fixture
def head(data):
    """A head that is right on most tokens."""
    torch.manual_seed(0)
    hidden, targets, *_ = data
    weight = torch.linalg.lstsq(hidden, F.one_hot(targets, V).double()).solution.T
    return lambda states: F.linear(states, weight)


def counted(logits, targets, tasks, rows):
    right = [int(logit.argmax()) == target for logit, target in zip(logits, targets.tolist(), strict=True)]
    accuracy, rows_of = [[0, 0] for _ in range(K)], [{} for _ in range(K)]
    for hit, task, row in zip(right, tasks.tolist(), rows.tolist(), strict=True):
        accuracy[task][0] += hit
        accuracy[task][1] += 1
        rows_of[task].setdefault(row, []).append(hit)
    return accuracy, [[sum(map(all, mine.values())), len(mine)] for mine in rows_of]


def listed(losses):
    return [list(pair) for pair in zip(losses.sums.tolist(), losses.counts.tolist(), strict=True)]


@pytest.mark.parametrize("chunk_size", [1, 7, N, 100])
def test_tokens_and_rows_are_counted_as_in_a_loop(head, data, chunk_size):
    hidden, targets, tasks, rows = data
    metrics = chunked_task_metrics(head, hidden, targets, tasks, rows, K, ROWS, chunk_size)
    accuracy, exact_match = counted(head(hidden), targets, tasks, rows)
    assert listed(metrics.accuracy) == accuracy
    assert listed(metrics.exact_match) == exact_match
    # Else this test could not fail.
    assert all(0 < right < all_of for right, all_of in accuracy[:-1])
    assert 0 < sum(right for right, _ in exact_match) < sum(all_of for _, all_of in exact_match)
    assert accuracy[-1] == exact_match[-1] == [0, 0]
    losses = F.cross_entropy(head(hidden), targets, reduction="none")
    torch.testing.assert_close(metrics.losses.sums, torch.stack([losses[tasks == k].sum() for k in range(K)]))
    assert metrics.losses.counts.equal(metrics.accuracy.counts)


def test_one_wrong_token_anywhere_spoils_its_row_alone():
    logits = F.one_hot(torch.tensor([1, 2, 3, 1, 2, 3]), V).float()
    rows, tasks = torch.tensor([0, 0, 0, 1, 1, 1]), torch.zeros(6, dtype=torch.int64)
    for wrong in range(6):
        targets = torch.tensor([1, 2, 3, 1, 2, 3])
        targets[wrong] = 0
        metrics = chunked_task_metrics(lambda x: x, logits, targets, tasks, rows, 1, 2, 4)
        assert (listed(metrics.accuracy), listed(metrics.exact_match)) == ([[5, 6]], [[1, 2]])


def test_of_equal_logits_the_one_that_greedy_decoding_takes_is_right():
    ones, row = torch.ones(1, V, dtype=torch.bfloat16), torch.tensor([0])
    taken = int(ones.argmax())
    right = [
        chunked_task_metrics(lambda x: x, ones, torch.tensor([token]), row, row, 1, 1, 1).accuracy.sums.item()
        for token in range(V)
    ]
    assert right == [float(token == taken) for token in range(V)]


def test_no_tokens_are_no_rows(head, data):
    metrics = chunked_task_metrics(head, *(value[:0] for value in data), K, ROWS, 5)
    assert [listed(measure) for measure in metrics] == [[[0, 0]] * K] * 3


def test_the_host_waits_for_no_value(data):
    """Meta tensors have none."""
    hidden, targets, tasks, rows = (value.to("meta") for value in data)
    weight = torch.empty(V, H, dtype=torch.float64, device="meta")
    metrics = chunked_task_metrics(lambda x: F.linear(x, weight), hidden, targets, tasks, rows, K, ROWS, 7)
    assert [measure.sums.shape for measure in metrics] == [(K,)] * 3
