"""Batch i of a named stream is a function of (seed, name, i)."""

import pytest
import torch

from lightning_coba.data.stream import Stream


def test_the_batches_show_every_row_before_any_again():
    stream = Stream("held_out/code", num_rows=7, batch_size=3, seed=1)
    assert stream.num_batches == 3
    rows = torch.cat([stream.batch(i) for i in range(7)])
    assert [sorted(cycle.tolist()) for cycle in rows.split(7)] == [list(range(7))] * 3


def test_any_batch_can_be_asked_for_first():
    batches = [Stream("a", 10, 4).batch(i) for i in range(5)]
    assert Stream("a", 10, 4).batch(3).equal(batches[3])


@pytest.mark.parametrize("other", [Stream("b", 50, 25), Stream("a", 50, 25, seed=1)])
def test_another_name_or_seed_gives_another_order(other):
    assert not other.batch(0).equal(Stream("a", 50, 25).batch(0))


@pytest.mark.parametrize(("rows", "size", "field"), [(0, 4, "num_rows"), (4, 0, "batch_size")])
def test_an_empty_stream_is_refused(rows, size, field):
    with pytest.raises(ValueError, match=f"`Stream.{field}` must be at least 1; got 0 for 'a'"):
        Stream("a", rows, size)
