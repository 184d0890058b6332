import os
import pickle
import shutil
import time

import pyarrow as pa
import pytest

from lightning_coba.data.reading.arrow_store import ArrowStore, fingerprint, kept, new_store

TABLE = pa.table({"text": ["a", "b"], "n": [1, 2], "flag": [True, False]})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path))
    return tmp_path / "kind"


def write(key=None, table=TABLE):
    with new_store("kind", table.schema, key) as new:
        for batch in table.to_batches(max_chunksize=1):
            new.write(batch)
    return new.store


def test_a_finished_table_is_found_by_its_key(home):
    assert kept("kind", "k") is None
    assert write("k").table.equals(TABLE)
    assert kept("kind", "k").table.equals(TABLE)
    assert os.listdir(home) == ["k"]


def test_numbers_are_read_as_arrays():
    store = write("k")
    assert len(store) == 2
    assert store.numbers("n").tolist() == [1, 2]
    assert store.numbers("flag").tolist() == [True, False]


def test_without_a_key_equal_tables_have_one_name(home):
    first, second = write(), write()
    assert first.folder == second.folder != write(table=TABLE.slice(1)).folder
    assert len(os.listdir(home)) == 2


def test_a_table_that_was_not_finished_leaves_nothing(home):
    def broken():
        yield TABLE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), new_store("kind", TABLE.schema, "k") as new:
        list(map(new.write, broken()))
    assert os.listdir(home) == []


def test_whoever_finishes_first_is_kept(home):
    with new_store("kind", TABLE.schema, "k") as new:
        new.write(TABLE.slice(1))
        write("k")
    assert new.store.table.equals(TABLE)
    assert os.listdir(home) == ["k"]


def test_other_errors_at_the_end_are_not_hidden(home):
    with pytest.raises(FileNotFoundError), new_store("kind", TABLE.schema, "k"):
        shutil.rmtree(home)


def test_what_a_killed_process_left_is_no_table_and_deleted_after_a_week(home):
    for name, days in (("unfinished-old", 8), ("unfinished-new", 1), ("done", 8)):
        then = time.time() - days * 24 * 3600
        (home / name).mkdir(parents=True)
        os.utime(home / name, (then, then))
    write("k")
    assert sorted(os.listdir(home)) == ["done", "k", "unfinished-new"]


def test_a_table_travels_as_the_name_of_its_folder():
    store = write("k")
    assert len(pickle.dumps(store)) < 500
    assert pickle.loads(pickle.dumps(store)).table.equals(ArrowStore(store.folder).table)


def test_fingerprint_changes_with_any_part():
    prints = [fingerprint(*parts) for parts in ((1, "a"), (1, "b"), (1, "a", None), ([1, "a"],), ("1", "a"))]
    assert len(set(prints)) == len(prints)
    assert fingerprint(1, ("a",)) == fingerprint(1, ["a"])
