import sys

import pytest
import torch

from lightning_coba.data.planner import (
    MIXING_RULES,
    epoch_length_of,
    epoch_order,
    micro_batch,
    num_micro_batches,
)

SIZES = [40, 7, 23, 1]


def order(mixing="proportional", epoch=0, seed=0, sizes=SIZES, rows_per_step=8, **kwargs):
    return epoch_order(sizes, mixing, seed, epoch, rows_per_step, **kwargs)


@pytest.mark.parametrize("mixing", MIXING_RULES)
def test_order_is_a_pure_function_of_seed_and_epoch(mixing):
    torch.manual_seed(1)
    first = order(mixing, epoch=3)
    order(mixing, epoch=9)
    torch.manual_seed(2)
    assert first.equal(order(mixing, epoch=3))
    assert not first.equal(order(mixing, epoch=4))
    assert not first.equal(order(mixing, epoch=3, seed=1))


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_proportional_shows_every_row_once_an_epoch(epoch):
    expected = [(task, row) for task, size in enumerate(SIZES) for row in range(size)]
    assert sorted(map(tuple, order(epoch=epoch).tolist())) == expected


@pytest.mark.parametrize("mixing", ["proportional", "uniform"])
def test_tasks_are_laid_out_evenly(mixing):
    sizes = [300, 100, 20]
    tasks = order(mixing, sizes=sizes)[:, 0]
    for task in range(3):
        seen = (tasks == task).cumsum(0)
        share = seen[-1] / len(tasks)
        # Every prefix holds a task's share: one row off for the task itself, one for each of the others.
        assert (seen - share * torch.arange(1, len(tasks) + 1)).abs().max() <= 3


@pytest.mark.parametrize("mixing", ["proportional", "uniform"])
def test_layout_differs_between_epochs(mixing):
    # Otherwise the same task would open every epoch, and the same tasks would always meet in a step.
    assert len({order(mixing, epoch)[0, 0].item() for epoch in range(20)}) > 1


@pytest.mark.parametrize("mixing", MIXING_RULES)
@pytest.mark.parametrize("epoch_length", [None, 10, 33])
def test_no_row_is_repeated_before_its_task_was_seen_whole(mixing, epoch_length):
    stream = torch.cat([order(mixing, epoch, epoch_length=epoch_length) for epoch in range(9)])
    for task, size in enumerate(SIZES):
        rows = stream[stream[:, 0] == task, 1]
        for cycle in rows.split(size):
            assert len(cycle.unique()) == len(cycle)


def test_uniform_gives_equal_counts_up_to_a_remainder_that_rotates():
    counts = torch.stack([order("uniform", epoch)[:, 0].bincount(minlength=4) for epoch in range(40)])
    assert counts.sum(dim=1).eq(sum(SIZES)).all()
    assert (counts - sum(SIZES) / 4).abs().max() < 1
    assert (counts.sum(dim=0) - 40 * sum(SIZES) / 4).abs().max() <= 2


def test_proportional_shares_hold_in_the_long_run_of_short_epochs():
    counts = sum(order(epoch=epoch, epoch_length=10)[:, 0].bincount(minlength=4) for epoch in range(200))
    expected = torch.tensor(SIZES) * 2000 / sum(SIZES)
    assert (counts - expected).abs().max() <= 3


@pytest.mark.parametrize("rows_per_step", [4, 6, 8, 9])
def test_stratified_puts_every_task_into_every_step(rows_per_step):
    extra = torch.zeros(4)
    for epoch in range(4):
        tasks = order("stratified", epoch, rows_per_step=rows_per_step)[:, 0]
        assert len(tasks) % rows_per_step == 0
        assert 0 <= len(tasks) - sum(SIZES) < rows_per_step
        for step in tasks.split(rows_per_step):
            counts = step.bincount(minlength=4)
            assert set(counts.tolist()) <= {rows_per_step // 4, -(-rows_per_step // 4)}
            extra += counts - rows_per_step // 4
    assert extra.max() - extra.min() <= 1


def test_stratified_step_smaller_than_the_tasks_says_what_to_raise():
    for rows_per_step in (3, None):
        with pytest.raises(ValueError, match=f"4 tasks; it has {rows_per_step}. Raise MultitaskDataModule.batch_size"):
            order("stratified", rows_per_step=rows_per_step)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((SIZES, "random"), "`mixing` must be one of proportional, uniform, stratified; got 'random'"),
        (([3, 0], "uniform"), "`sizes` must be at least one row per task"),
        (([], "uniform"), "`sizes` must be at least one row per task"),
        ((SIZES, "uniform", None, 0), "`epoch_length` must be at least 1 row; got 0"),
    ],
)
def test_arguments_are_checked(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        epoch_length_of(*arguments)


@pytest.mark.parametrize("mixing", MIXING_RULES)
def test_one_task_alone_is_a_permutation(mixing):
    rows = order(mixing, sizes=[16])
    assert rows[:, 0].eq(0).all()
    assert rows[:, 1].sort().values.equal(torch.arange(16))


@pytest.mark.parametrize("mixing", MIXING_RULES)
def test_planning_has_no_python_loop_over_rows(mixing):
    events = 0

    def count(frame, event, arg):
        nonlocal events
        events += 1

    sys.setprofile(count)
    try:
        rows = epoch_order([70_000, 20_000, 10_000], mixing, seed=0, epoch=50, rows_per_step=8)
    finally:
        sys.setprofile(None)
    assert len(rows) == 100_000
    assert events < 5_000


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_partition_the_order(world_size):
    rows = order()
    batches = num_micro_batches(len(rows), 4, world_size)
    seen = []
    for index in range(batches):
        chunk = rows[index * 4 * world_size : (index + 1) * 4 * world_size]
        parts = [micro_batch(rows, index, 4, rank, world_size) for rank in range(world_size)]
        for rank, part in enumerate(parts):
            assert part.counted == (rank < len(chunk))
            assert part.rows.equal(chunk[rank::world_size] if part.counted else chunk[:1])
        seen += [tuple(row) for part in parts if part.counted for row in part.rows.tolist()]
    assert sorted(seen) == sorted(map(tuple, rows.tolist()))
    assert len(rows[(batches - 1) * 4 * world_size :]) > 0


def test_ranks_that_find_nothing_read_a_stand_in():
    rows = order()[:5]
    assert num_micro_batches(5, 2, 2) == 2
    stand_in = micro_batch(rows, 1, batch_size=2, rank=1, world_size=2)
    assert stand_in.rows.equal(rows[4:5])
    assert not stand_in.counted
