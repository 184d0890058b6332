import pickle
import re
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pytest

from lightning_coba.data.reading.arrow_store import new_store
from lightning_coba.data.tokens.encoding import TOKEN_SCHEMA
from lightning_coba.data.tokens.tokenization import select_rows


def token_table(num_rows, overlong=()):
    """Row i holds i + 2 tokens, of which the last i + 1 are learned; overlong ones none."""
    rows = [
        {
            "ids": [] if i in overlong else [100 * i + j for j in range(i + 2)],
            "learned": [] if i in overlong else [0, *[1] * (i + 1)],
            "num_tokens": 0 if i in overlong else i + 2,
            "num_learned": 99 if i in overlong else i + 1,
            "num_lost": i % 2,
            "overlong": i in overlong,
            "last_only": False,
        }
        for i in range(num_rows)
    ]
    return pa.Table.from_pylist(rows, TOKEN_SCHEMA)


def stored(table):
    """Write a table in record batches of three."""
    with new_store("tokens", TOKEN_SCHEMA) as new:
        for batch in table.to_batches(max_chunksize=3):
            new.write(batch)
    return new.store


@pytest.fixture
def store():
    return stored(token_table(10))


def as_lists(taken):
    return [(ids.tolist(), learned.tolist()) for ids, learned in taken]


def test_rows_are_taken_in_any_order_from_all_batches(store):
    rows = select_rows(store, np.array([9, 0, 7, 3]), 64)
    taken = rows.take([2, 0, 1, 3, 3])
    assert [ids.tolist() for ids, _ in taken] == [[100 * i + j for j in range(i + 2)] for i in (7, 9, 0, 3, 3)]
    assert [learned.tolist() for _, learned in taken] == [[False] + [True] * (i + 1) for i in (7, 9, 0, 3, 3)]
    assert (taken[0][0].dtype, taken[0][1].dtype) == (np.int32, bool)
    with pytest.raises(IndexError):
        rows.take([4])


def test_counts_are_those_of_the_selected_rows(store):
    rows = select_rows(store, np.array([9, 0, 7, 3]), 64)
    assert len(rows) == 4
    assert rows.lengths.tolist() == [11, 2, 9, 5]
    assert rows.completion_tokens.tolist() == [10, 1, 8, 4]
    assert (rows.lengths.dtype, rows.completion_tokens.dtype) == (np.int32, np.int32)
    assert (rows.num_cut_prompts, rows.num_dropped, rows.longest) == (3, 0, 12)


def first_rows(rows):
    return as_lists(rows.take([0, 1]))


def test_other_processes_read_the_same(store):
    rows = select_rows(store, np.array([9, 0, 7, 3]), 64)
    expected = first_rows(rows)
    with get_context("fork").Pool(1) as pool:
        assert pool.apply(first_rows, [rows]) == expected


def test_files_travel_as_names(store):
    rows = select_rows(store, np.arange(10), 64)
    rows.take([0])
    assert b"num_learned" not in pickle.dumps(rows)
    assert as_lists(pickle.loads(pickle.dumps(rows)).take([5])) == as_lists(rows.take([5]))


def test_overlong_completion_is_an_error_with_its_line():
    store = stored(token_table(5, overlong={3, 4}))
    message = "a.jsonl:3: the completion has 98 tokens; with start and end token it needs 100, more than"
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        select_rows(store, np.arange(5), 6, origin="a.jsonl:{}".format)
    assert "MultitaskDataModule.max_length=6" in str(caught.value)
    assert 'set overlong="drop"' in str(caught.value)
    assert len(select_rows(store, np.array([1, 2]), 6)) == 2


def test_overlong_drop_counts_warns_and_says_which_are_kept():
    store = stored(token_table(5, overlong={3, 1}))
    with pytest.warns(UserWarning, match="Task 't/train': 1 of 3 rows were dropped.*max_length=6"):
        rows = select_rows(store, np.array([4, 3, 2]), 6, overlong="drop", split="t/train")
    assert rows.rows.tolist() == [4, 2]
    assert rows.lengths.tolist() == [6, 4]
    assert rows.num_dropped == 1
    with pytest.raises(ValueError, match=r"None is left. Raise max_length"):
        select_rows(store, np.array([1, 3]), 6, overlong="drop")
