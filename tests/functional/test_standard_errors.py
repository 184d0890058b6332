"""The standard error of a task's mean, from sums that add up over batches and ranks."""

import pytest
import torch

from lightning_coba.functional import TaskLosses, row_task_losses, standard_errors, task_means

K = 3


def rows_of_texts(num=300, seed=0):
    """Return (sums, counts, tasks) of rows whose tokens share a difficulty, as those of one text do."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 30, (num,), generator=generator)
    difficulty = 2 + torch.rand(num, generator=generator, dtype=torch.float64)
    noise = torch.randn(num, generator=generator, dtype=torch.float64) * counts.sqrt() * 0.3
    return difficulty * counts + noise, counts, torch.randint(0, K, (num,), generator=generator)


def added(parts):
    return TaskLosses(*(torch.stack(field).sum(dim=0) for field in zip(*parts, strict=True)))


def test_it_is_the_linearised_variance_of_a_ratio():
    sums, counts, tasks = rows_of_texts()
    errors = standard_errors(row_task_losses(sums, counts, tasks, K))
    for k in range(K):
        s, n = sums[tasks == k], counts[tasks == k]
        residual = s - s.sum() / n.sum() * n
        expected = (len(s) / (len(s) - 1) * residual.square().sum()).sqrt() / n.sum()
        torch.testing.assert_close(errors[k], expected, rtol=1e-9, atol=0)


def test_it_is_what_a_bootstrap_over_rows_finds_and_not_one_over_tokens():
    sums, counts, _ = rows_of_texts()
    tasks = torch.zeros(len(sums), dtype=torch.int64)
    [error] = standard_errors(row_task_losses(sums, counts, tasks, 1))
    drawn = torch.randint(0, len(sums), (4000, len(sums)), generator=torch.Generator().manual_seed(1))
    means = sums[drawn].sum(dim=1) / counts[drawn].sum(dim=1)
    assert error.item() == pytest.approx(means.std().item(), rel=0.05)


def test_equal_rows_give_the_textbook_s_standard_error():
    sums = torch.randn(50, dtype=torch.float64)
    [error] = standard_errors(row_task_losses(sums, torch.ones(50), torch.zeros(50, dtype=torch.int64), 1))
    assert error.item() == pytest.approx((sums.std() / 50**0.5).item())


@pytest.mark.parametrize("size", [1, 7, 100])
def test_batches_add_up_to_the_whole(size):
    data = rows_of_texts()
    whole = row_task_losses(*data, K)
    parts = [row_task_losses(*batch, K) for batch in zip(*(column.split(size) for column in data), strict=True)]
    torch.testing.assert_close(standard_errors(added(parts)), standard_errors(whole), rtol=1e-9, atol=0)
    torch.testing.assert_close(task_means(added(parts)), task_means(whole), rtol=1e-12, atol=0)


def test_it_is_unknown_without_squares_and_for_fewer_than_two_rows():
    assert standard_errors(TaskLosses(torch.ones(2), torch.ones(2))).isnan().all()
    one_and_none = row_task_losses(torch.ones(2), torch.tensor([3, 0]), torch.tensor([0, 1]), 2)
    assert standard_errors(one_and_none).isnan().all()
    assert one_and_none.rows.tolist() == [1, 0]  # a row without elements is none
