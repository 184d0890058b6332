import json
import re

import pytest

from lightning_coba.data import Task
from lightning_coba.data.reading.row_cache import row_tables
from lightning_coba.inspection.column_guess import guess_columns, rules_of

TURNS = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


@pytest.mark.parametrize(
    ("row", "rules"),
    [
        ({"prompt": "p\n", "completion": "c"}, {}),
        ({"prompt": "p", "completion": "c"}, {"prompt": "{prompt}\n"}),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, {}),
        ({"question": "q", "answer": "a", "id": 3}, {"prompt": "{question}\n", "completion": "answer"}),
        ({"question": "q ", "answer": "a"}, {"prompt": "question", "completion": "answer"}),
        (
            {"question": "q", "answer": "a", "context": "c"},
            {"prompt": "{context}\n{question}\n", "completion": "answer"},
        ),
        (
            {"instruction": "i", "input": "", "output": "o"},
            {"prompt": "{instruction}\n{input}\n", "completion": "output"},
        ),
        ({"instruction": "i", "output": "o"}, {"prompt": "{instruction}\n", "completion": "output"}),
        ({"source": "s", "target": "t"}, {"prompt": "{source}\n", "completion": "target"}),
        ({"text": "t", "label": 3}, {"prompt": "{text}\n", "completion": "{label}"}),
        ({"messages": CHAT}, {}),
        ({"messages": CHAT, "prompt": "hi"}, {}),
        ({"conversations": TURNS, "id": "x"}, {"messages": "conversations"}),
    ],
)
def test_columns_are_told_by_their_names_and_the_rows_can_be_read(row, rules):
    source = [row] * 3
    assert guess_columns(Task("t", source)).rules == rules
    (table,) = row_tables([Task("t", source, **rules)])
    assert len(table.store) == 3


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"en": "yes", "de": "ja"}, r"'en', 'de'. Type --columns '\{en\}\\n' de, or what is meant"),
        ({"translation": {"en": "yes", "de": "ja"}}, r"Type --columns '\{translation\[en\]\}\\n' '\{tran"),
        ({"text": "words"}, r"add a column 'prompt' that is empty, and type --columns prompt text"),
    ],
)
def test_what_cannot_be_told_is_an_error_with_what_to_type(tmp_path, row, advice):
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=advice) as caught:
        guess_columns(Task("t", file))
    assert str(caught.value).startswith(f"{file}: which columns of task 't'")


def test_a_column_that_some_rows_lack_is_not_taken():
    rows = [{"question": "q", "context": "c", "answer": "a"}, {"question": "q", "context": None, "answer": "a"}]
    assert guess_columns(Task("t", rows)).rules["prompt"] == "{question}\n"


def test_what_is_not_read_and_an_empty_input_are_told():
    rows = [
        {"instruction": "i", "input": "", "output": "o", "id": 1},
        {"instruction": "i", "input": "x", "output": "o"},
    ]
    why = guess_columns(Task("t", rows)).why
    assert "where 'input' is empty, the prompt has an empty line; not read: 'id'" in why
    partly = guess_columns(Task("t", [{"instruction": "i", "output": "o"}, rows[1]]))
    assert "not read: 'input'" in partly.why
    chat = guess_columns(Task("t", [{"conversations": TURNS, "system": "s", "task": "a"}], where={"task": "a"}))
    assert chat.why.endswith("holds conversations; not read: 'system'")


def test_only_the_rows_of_the_task_are_looked_at():
    rows = [{"task": "a", "en": "x", "de": "y"}, {"task": "b", "question": "q", "answer": "a"}]
    assert guess_columns(Task("b", rows, where={"task": "b"})).rules["completion"] == "answer"
    with pytest.raises(ValueError, match=r"Type --columns '\{en\}"):
        guess_columns(Task("a", rows, where={"task": "a"}))


def test_an_empty_task_is_refused():
    with pytest.raises(ValueError, match="The train split of task 't' is empty"):
        guess_columns(Task("t", []))


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\n")
    with pytest.raises(ValueError, match=r"'t' is empty \(.*a\.csv\)"):
        guess_columns(Task("t", tmp_path / "a.csv"))


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ";"), ("csv", "|"), ("csv", "\t"), ("tsv", ";")])
def test_fields_that_are_parted_by_another_mark_are_told(tmp_path, suffix, mark):
    file = tmp_path / f"a.{suffix}"
    file.write_text(f"question{mark}answer\nq{mark}a\n")
    with pytest.raises(ValueError, match=f"parted by {re.escape(repr(mark))}: save the file with commas"):
        guess_columns(Task("t", file))


def test_what_was_typed_holds_for_all_tasks():
    tasks = [Task(name, [{"en": "x", "de": "y"}]) for name in "ab"]
    found = rules_of(tasks, [{"prompt": "{en}\n", "completion": "de"}])
    assert {name: columns.rules["completion"] for name, columns in found.items()} == {"a": "de", "b": "de"}


def test_what_was_typed_leaves_tasks_without_these_columns_alone():
    rows = {
        "german": {"en": "x", "de": "y"},
        "glyphs": {"symbol": "x", "name": "y"},
        "qa": {"question": "x", "answer": "y"},
        "chat": {"turns": CHAT},
    }
    tasks = [Task(name, [row]) for name, row in rows.items()]
    german, glyphs = {"prompt": "{en}\n", "completion": "de"}, {"prompt": "{symbol}\n", "completion": "name"}
    found = rules_of(tasks, [german, glyphs, {"messages": "turns"}])
    assert {name: columns.rules for name, columns in found.items()} == {
        "german": german,
        "glyphs": glyphs,
        "qa": {"prompt": "{question}\n", "completion": "answer"},
        "chat": {"messages": "turns"},
    }


def test_typed_columns_that_no_task_has_are_refused():
    tasks = [Task("a", [{"question": "x", "answer": "y"}])]
    with pytest.raises(ValueError, match=r"columns of --columns '\{q\}\\n' a\. They are a: 'question', 'answer'"):
        rules_of(tasks, [{"prompt": "{q}\n", "completion": "a"}])
    with pytest.raises(ValueError, match="must be a column name or a template"):
        rules_of(tasks, [{"prompt": "{question", "completion": "answer"}])
