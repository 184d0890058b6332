"""Files that are no data, or were: each is refused with its name, and none makes the reader wait."""

import gzip
import json
import os
import re
import socket

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from lightning_coba.data import Task
from lightning_coba.data.reading.formats import read_file
from lightning_coba.data.reading.found_tasks import tasks_at
from lightning_coba.data.reading.row_cache import row_tables
from lightning_coba.errors import UserError

ROW = {"prompt": "p", "completion": "c"}
LINES = (json.dumps(ROW) + "\n").encode() * 200


def refused(file, match):
    with pytest.raises(UserError, match=match) as caught:
        list(read_file(file))
    assert caught.value.where.startswith(str(file))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:40], "not readable gzip"),
        ("a.jsonl.gz", LINES, "not readable gzip .*take .gz off its name"),
        ("a.jsonl", gzip.compress(LINES, mtime=0), "compressed with gzip.*end in .gz"),
        ("a.jsonl", LINES.decode().encode("utf-16"), "is UTF-16"),
        ("a.jsonl", b"\0" * 4096, "with a NUL byte"),
        ("a.jsonl", b'{"prompt": ' + b"9" * 5000 + b"}", "thousands of digits"),
        ("a.jsonl", b'{"prompt": ' + b"[" * 5000, "deep|not valid JSON"),
        ("a.jsonl", b'{"prompt": ' + b"[" * 200 + b"]" * 200 + b"}", "more than 100 deep"),
        ("a.csv", b"prompt,completion,prompt\na,b,c\n", "names the column 'prompt' twice"),
        ("a.csv", b'prompt,completion\n"a,b\n', "not valid CSV"),
        ("a.csv", b"PK\x03\x04\xff", "ZIP archive"),
        ("a.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", "not readable Parquet"),
    ],
)
def test_what_is_no_data_is_refused_by_name(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, says)


def test_text_in_parquet_that_is_not_utf8_is_refused(tmp_path):
    table = pa.table({"prompt": pa.array([b"\xff\xfe"]).cast(pa.string(), safe=False)})
    parquet.write_table(table, tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "not readable Parquet .*UTF")


def test_lines_may_end_in_any_way_and_a_nameless_column_is_left_out(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "a.csv").write_text(f"{end},prompt,completion{end}0,p,c{end}", newline="")
        assert list(read_file(tmp_path / "a.csv")) == [(3, ROW)]
        (tmp_path / "a.jsonl").write_text(json.dumps(ROW) + end + json.dumps(ROW) + end, newline="")
        assert list(read_file(tmp_path / "a.jsonl")) == [(1, ROW), (2, ROW)]


def test_nan_is_no_value_and_of_two_equal_keys_the_last_counts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": NaN, "n": -Infinity, "x": 1, "x": 2}\n')
    assert list(read_file(tmp_path / "a.jsonl")) == [(1, {"prompt": None, "n": None, "x": 2})]


@pytest.mark.parametrize("kind", ["pipe", "socket", "broken link", "folder", "loop"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, kind):
    home = tmp_path / "t" / "a"
    home.mkdir(parents=True)
    file = home / "train.jsonl"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "socket":
        here = os.open(home, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{here}/train.jsonl")
        os.close(here)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("train.jsonl" if kind == "loop" else "nowhere")
    with pytest.raises(UserError, match=re.escape(str(file))):
        tasks_at(tmp_path / "t")


@pytest.mark.parametrize("damaged", ["dataset_dict.json", "train/state.json", "train/data-00000-of-00001.arrow"])
def test_a_damaged_saved_dataset_is_refused_by_name(tmp_path, damaged):
    home = tmp_path / "t" / "a"
    datasets.DatasetDict({"train": datasets.Dataset.from_list([ROW] * 20)}).save_to_disk(home)
    file = home / damaged
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=re.escape(str(home))):
        row_tables(tasks_at(tmp_path / "t"))


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None])
def test_a_damaged_entry_of_the_cache_is_made_again(tmp_path, monkeypatch, content):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "train.jsonl").write_bytes(LINES)
    task = Task("t", tmp_path / "train.jsonl")
    row_tables([task])
    (kept,) = (tmp_path / "cache").rglob("rows.arrow")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert len(row_tables([task])[0].store) == 200
    assert kept.read_bytes() == whole


def test_a_template_that_does_not_fit_a_row_is_told_with_its_line(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"meta": {"a": 1}, "completion": "c"}\n{"meta": 3, "completion": "c"}\n')
    with pytest.raises(UserError, match=r"train\.jsonl:2: the prompt template '\{meta\[a\]\}' does not fit the row"):
        row_tables([Task("t", tmp_path / "train.jsonl", prompt="{meta[a]}")])
