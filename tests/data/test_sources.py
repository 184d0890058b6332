import json
import re
from pathlib import Path

import pytest

from lightning_coba.data.sources import Row, read_split
from lightning_coba.data.task import Task

GOOD = '{"prompt": "p", "completion": "c"}'


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return path


def test_rows_name_their_line_and_blank_lines_are_skipped(tmp_path):
    file = write(tmp_path / "a.jsonl", GOOD, "", "  ", GOOD.replace('c"}', 'd"}'))
    assert read_split(Task("t", file), "train") == [Row("p", "c", f"{file}:1"), Row("p", "d", f"{file}:4")]


def test_byte_order_mark_and_line_separators_inside_strings_are_tolerated(tmp_path):
    file = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + GOOD.encode(), '{"prompt": "a\u2028b", "completion": "c"}')
    assert [row.prompt for row in read_split(Task("t", file), "train")] == ["p", "a\u2028b"]


def test_folder_glob_and_list_read_the_same_files(tmp_path):
    files = [write(tmp_path / f"{name}.jsonl", GOOD) for name in "ba"]
    write(tmp_path / "notes.txt", "not a row")
    expected = [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/b.jsonl:1"]
    for source in (tmp_path, str(tmp_path), str(tmp_path / "*.jsonl"), sorted(files), [str(tmp_path)]):
        assert [row.origin for row in read_split(Task("t", source), "train")] == expected


def test_iterables_of_dicts_are_read_once_and_name_their_item():
    rows = ({"prompt": str(i), "completion": "c"} for i in range(2))
    assert read_split(Task("t", rows), "train")[1] == Row("1", "c", "task 't', train item 1")


def test_template_is_filled_from_the_columns():
    task = Task("t", [{"text": "hi {x}", "n": 3}], prompt="{{{n}}} {text}:\n", completion="{n}")
    assert read_split(task, "train")[0][:2] == ("{3} hi {x}:\n", "3")


BAD_LINES = [
    ('{"prompt": "p",}', "the line is not valid JSON (", "Write one JSON object a line"),
    ('["p", "c"]', "the line must be a JSON object; got list", 'Write {"prompt"'),
    (b'{"prompt": "\xff"}', "the line is not UTF-8", "Save the file as UTF-8"),
    (
        '{"question": "p", "completion": "c"}',
        "there is no column 'prompt'",
        "columns are 'question', 'completion'",
    ),
    ("{}", "there is no column", "The columns are none"),
    (
        '{"prompt": 3, "completion": "c"}',
        "column 'prompt' (prompt) must be a string; got int",
        "prompt='{prompt}'",
    ),
    (
        '{"prompt": "p", "completion": null}',
        "column 'completion' (completion) must be a string",
        "got NoneType",
    ),
    ('{"prompt": "p", "completion": " \\n"}', "the completion is empty", "Fill it in, or delete the row"),
    (
        '{"prompt": "\\ud800", "completion": "c"}',
        "the prompt holds half of a surrogate pair",
        "Repair the row",
    ),
]


@pytest.mark.parametrize(("line", "complaint", "cure"), BAD_LINES)
def test_bad_line_is_named_with_its_cure(tmp_path, line, complaint, cure):
    file = write(tmp_path / "a.jsonl", GOOD, "", line)
    with pytest.raises(ValueError, match=re.escape(f"{file}:3: {complaint}")) as caught:
        read_split(Task("t", file), "train")
    assert cure in str(caught.value)


def test_template_errors_name_the_item():
    for fields, complaint in (
        (
            {"completion": "c"},
            "task 't', test item 0: there is no column 'text', which Task 't' uses as prompt",
        ),
        (
            {"text": None, "completion": "c"},
            "task 't', test item 0: column 'text' (prompt template) must be a string",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(complaint)):
            read_split(Task("t", "unread", test=[fields], prompt="Say {text}"), "test")


def test_items_that_are_no_rows_are_named():
    with pytest.raises(ValueError, match=r"task 't', train item 1: a row must be a dict.*got tuple"):
        read_split(Task("t", [json.loads(GOOD), ("p", "c")]), "train")


def test_empty_split_names_task_and_split(tmp_path):
    for source in ([], write(tmp_path / "a.jsonl", "", "")):
        with pytest.raises(ValueError, match="The test split of task 't' is empty"):
            read_split(Task("t", "unread", test=source), "test")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("x*.jsonl", "no file matches the pattern"), ("x.jsonl", "no such file or folder"), (".", "holds no")],
)
def test_paths_that_lead_nowhere_name_task_split_and_path(tmp_path, name, complaint):
    with pytest.raises(FileNotFoundError, match=f"task 't', train: .*{complaint}") as caught:
        read_split(Task("t", tmp_path / name), "train")
    assert str(tmp_path / name) in str(caught.value)
