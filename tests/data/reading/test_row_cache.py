import json
import os
import re
from pathlib import Path

import datasets
import pytest

from lightning_coba.data.reading import sources
from lightning_coba.data.reading.row_cache import readable_rows, row_tables
from lightning_coba.data.reading.task import Task

ROWS = [{"prompt": f"p{i}", "completion": "c", "task": "ab"[i % 2]} for i in range(5)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture
def reads(monkeypatch):
    """List the files that are read from here on."""
    names = []
    read_file = sources.read_file
    monkeypatch.setattr(sources, "read_file", lambda file: names.append(Path(file).name) or read_file(file))
    return names


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def texts(table):
    return [table.text(row) for row in range(len(table.store))]


EXPECTED = [(f"p{i}", "c") for i in range(5)]


def test_rows_are_kept_with_their_split_and_origin(tmp_path, file):
    test = write(tmp_path / "test.jsonl", [{"prompt": "q", "completion": "d"}])
    (table,) = row_tables([Task("t", file, test=test)])
    assert texts(table) == [*EXPECTED, ("q", "d")]
    assert {split: rows.tolist() for split, rows in table.splits().items()} == {"train": [0, 1, 2, 3, 4], "test": [5]}
    assert [table.origin(row) for row in (0, 4, 5)] == [f"{file}:1", f"{file}:5", f"{test}:1"]


def test_what_is_kept_is_not_read_again(file, reads):
    (first,) = row_tables([Task("t", file)])
    (second,) = row_tables([Task("other", file)])
    assert reads == ["rows.jsonl"]
    assert texts(second) == texts(first) == EXPECTED
    assert second.fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "options", [{"prompt": "{prompt}!"}, {"completion": "task"}, {"where": {"task": "a"}}, {"chat": True}]
)
def test_another_rule_gives_other_rows(file, reads, options):
    tables = [row_tables([Task("t", file)])[0], row_tables([Task("t", file, **options)])[0]]
    assert reads == ["rows.jsonl"] * 2
    assert len({table.fingerprint for table in tables}) == 2


def test_changed_file_is_read_again(file, reads):
    row_tables([Task("t", file)])
    status = file.stat()
    file.write_text(file.read_text().replace("p0", "P0"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    (table,) = row_tables([Task("t", file)])
    assert len(reads) == 2
    assert table.text(0) == ("P0", "c")


def test_parts_of_one_file_are_read_in_one_pass(file, reads):
    tables = row_tables([Task(name, file, where={"task": name}) for name in "ab"])
    assert reads == ["rows.jsonl"]
    assert [texts(table) for table in tables] == [EXPECTED[::2], EXPECTED[1::2]]
    assert tables[1].origin(1) == f"{file}:4"


def test_bad_row_leaves_nothing_behind(tmp_path, cache):
    file = write(tmp_path / "a.jsonl", [ROWS[0], {"prompt": "p"}])
    with pytest.raises(ValueError, match=r"a\.jsonl:2: there is no column 'completion'"):
        row_tables([Task("t", file)])
    assert list(cache.iterdir()) == []


def test_rows_of_python_are_named_by_their_content(cache):
    sources = (
        (row for row in ROWS),
        (row for row in ROWS),
        ROWS,
        datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    )
    tables = [row_tables([Task("t", source)])[0] for source in sources]
    assert all(texts(table) == EXPECTED for table in tables)
    assert tables[0].fingerprint == tables[1].fingerprint == tables[2].fingerprint
    assert {folder.name for folder in cache.iterdir()} == {table.fingerprint for table in tables}
    assert tables[2].origin(3) == "task 't', train item 3"


def test_more_rows_than_a_batch_keep_their_order(tmp_path):
    rows = [{"prompt": str(i), "completion": "c"} for i in range(2500)]
    (table,) = row_tables([Task("t", write(tmp_path / "many.jsonl", rows))])
    assert [table.text(row)[0] for row in (0, 999, 1000, 2499)] == ["0", "999", "1000", "2499"]
    assert len(table.store) == len(table.splits()["train"]) == 2500


def test_empty_split_names_task_split_and_condition(tmp_path, file):
    empty = write(tmp_path / "empty.jsonl", [])
    for source, read in (([], ""), (empty, f" ({empty})")):
        says = f"The test split of task 't' is empty{read}. Give it rows, or leave it out"
        with pytest.raises(ValueError, match=re.escape(says)):
            row_tables([Task("t", file, test=source)])
    says = f"train split of task 't' is empty ({file}). Give it rows of which task is 'x', or"
    with pytest.raises(ValueError, match=re.escape(says)):
        row_tables([Task("t", file, where={"task": "x"})])


def test_a_condition_on_a_column_that_is_not_there_is_named(file):
    with pytest.raises(ValueError, match=r"`Task.where` asks for the column 'suite'; the columns are 'prompt'"):
        row_tables([Task("t", file, where={"suite": "x"})])


def test_all_that_is_wrong_is_collected_and_the_rest_is_read(tmp_path):
    good = {"prompt": "p", "completion": "c"}
    file = write(tmp_path / "mixed.jsonl", [good, {"prompt": "p"}, {**good, "completion": ""}, good])
    with file.open("a") as stream:
        stream.write('{"prompt"\n' + json.dumps(good) + "\n")
    table, problems = readable_rows(Task("t", file, test=write(tmp_path / "more.jsonl", [good])))
    assert [problem.where for problem in problems] == [f"{file}:{line}" for line in (2, 3, 5)]
    assert [problem.what.split()[:5] for problem in problems] == [
        ["there", "is", "no", "column", "'completion',"],
        ["the", "completion", "is", "empty."],
        ["the", "line", "is", "not", "valid"],
    ]
    # What follows a line that is no JSON is not read, but the next file is.
    assert {split: len(rows) for split, rows in table.splits().items()} == {"train": 2, "test": 1}
    with pytest.raises(ValueError, match=r"mixed\.jsonl:2"):  # what was read so is not taken for the whole
        row_tables([Task("t", file, test=tmp_path / "more.jsonl")])
