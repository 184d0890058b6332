import numpy as np
import pytest

from lightning_coba.data.planning.packing import best_fit


@pytest.mark.parametrize("seed", range(3))
def test_every_item_is_in_one_bin_and_none_is_too_full(seed):
    lengths = np.random.default_rng(seed).integers(1, 65, 500).tolist()
    bins = best_fit(lengths, 64)
    assert sorted(item for items in bins for item in items) == list(range(500))
    assert max(sum(lengths[item] for item in items) for items in bins) <= 64
    # Best-fit decreasing needs at most 11/9 of the fewest bins, plus one.
    assert len(bins) <= 11 / 9 * sum(lengths) / 64 + 1


def test_an_item_goes_where_it_leaves_the_least_room():
    # After 6 and 5, of 10, the 4 fits both: beside the 6 it leaves nothing.
    assert best_fit([5, 6, 4], capacity=10) == [[1, 2], [0]]


def test_full_items_stand_alone():
    assert best_fit([7, 7], capacity=7) == [[0], [1]]
    assert best_fit([], capacity=7) == []


def test_item_longer_than_a_bin_is_refused():
    with pytest.raises(ValueError, match=r"must hold the longest item, 8; got 7"):
        best_fit([3, 8], capacity=7)
