import os
import time

import pyarrow as pa
import pytest

from lightning_coba.data.reading.arrow_store import ArrowStore, finish, unfinished_folder, write_numbers


def fill(folder, text="a"):
    table = pa.table({"text": [text, "b"], "n": [1, 2], "flag": [True, False]})
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=1)
    write_numbers(folder)


def test_numbers_are_read_without_the_rest(tmp_path):
    fill(tmp_path)
    (tmp_path / "rows.arrow").unlink()
    store = ArrowStore(tmp_path)
    assert len(store) == 2
    assert store.numbers("n").tolist() == [1, 2]
    assert store.numbers("flag").tolist() == [True, False]


def test_finished_folder_is_kept_and_an_unfinished_one_is_not(tmp_path):
    with unfinished_folder(tmp_path) as folder:
        fill(folder)
        finish(folder, tmp_path / "done")
    with unfinished_folder(tmp_path) as folder:
        fill(folder)
    assert os.listdir(tmp_path) == ["done"]
    assert ArrowStore(tmp_path / "done").table.column("text").to_pylist() == ["a", "b"]


def test_whoever_finishes_first_is_kept(tmp_path):
    for text in ("first", "second"):
        with unfinished_folder(tmp_path) as folder:
            fill(folder, text)
            finish(folder, tmp_path / "done")
    assert ArrowStore(tmp_path / "done").table.column("text")[0].as_py() == "first"
    assert os.listdir(tmp_path) == ["done"]


def test_finish_does_not_hide_other_errors(tmp_path):
    with unfinished_folder(tmp_path) as folder, pytest.raises(FileNotFoundError):
        finish(folder, tmp_path / "missing" / "done")


def test_what_a_killed_process_left_is_deleted_after_a_week(tmp_path):
    for name, days in (("unfinished-old", 8), ("unfinished-new", 1), ("done", 8)):
        fill_time = time.time() - days * 24 * 3600
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (fill_time, fill_time))
    with unfinished_folder(tmp_path):
        assert not (tmp_path / "unfinished-old").exists()
    assert sorted(os.listdir(tmp_path)) == ["done", "unfinished-new"]
