import json
import re

import datasets
import pytest

from lightning_coba.data import Task, tasks_at


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path.with_suffix(".cache")))


@pytest.mark.parametrize("name", ["", "a b", "a/b", "qa\n", "ü", None, ".", "..", "../x", "-x", ".hidden", "x\0"])
def test_name_with_other_characters_is_refused(name):
    with pytest.raises(ValueError, match=re.escape("`Task.name` must match [A-Za-z0-9_][A-Za-z0-9_.-]*")):
        Task(name, "train.jsonl")


@pytest.mark.parametrize("argument", ["prompt", "completion"])
@pytest.mark.parametrize("rule", ["", None, "Say {", "{}", "{0}", "{{no column}}"])
def test_text_rule_that_names_no_column_is_refused(argument, rule):
    with pytest.raises(ValueError, match=f"`Task.{argument}` must be a column name or a template.*'de'"):
        Task("de", "train.jsonl", **{argument: rule})


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_source_of_another_type_is_refused(split):
    with pytest.raises(ValueError, match=f"`Task.{split}` must be a path.*got 7 for task 'de'"):
        Task("de", **{"train": "train.jsonl", split: 7})


def test_folder_gives_its_tasks_sorted_and_optional_splits(tmp_path):
    for path in ("b/train.jsonl", "b/test.jsonl", "a/train.jsonl", "a/validation.jsonl", "empty/notes.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    with pytest.warns(UserWarning, match="these are left out: empty"):
        first, second = tasks_at(tmp_path)
    assert first == Task("a", tmp_path / "a/train.jsonl", validation=tmp_path / "a/validation.jsonl")
    assert second == Task("b", tmp_path / "b/train.jsonl", test=tmp_path / "b/test.jsonl")


def test_missing_and_empty_folders_show_the_layout(tmp_path):
    for root, start in (
        (tmp_path / "nowhere", "`tasks_at.root` must be a folder or a file"),
        (tmp_path, "No task"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            tasks_at(root)
        assert str(caught.value).startswith(start)
        assert f"{root}/<task>/train.jsonl" in str(caught.value)
        assert '{"prompt": ..., "completion": ...} or {"messages": [...]} a line' in str(caught.value)
        assert "train-00000-of-00002.parquet" in str(caught.value)


def test_folder_may_hold_any_format(tmp_path):
    for path in ("a/train.csv", "a/dev.parquet", "b/x.jsonl"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert tasks_at(tmp_path) == [
        Task("a", tmp_path / "a/train.csv", validation=tmp_path / "a/dev.parquet"),
        Task("b", tmp_path / "b"),
    ]


def test_file_gives_the_tasks_of_its_column(tmp_path):
    file = tmp_path / "all.jsonl"
    file.write_text("".join(f'{{"task": "{name}"}}\n' for name in ("nlu", "open qa", "nlu")))
    assert tasks_at(file) == [
        Task("nlu", file, where={"task": "nlu"}),
        Task("open_qa", file, where={"task": "open qa"}),
    ]


def test_tasks_of_a_file_are_looked_for_again_only_when_it_changes(tmp_path, monkeypatch):
    file = tmp_path / "all.jsonl"
    file.write_text('{"task": "b"}\n{"task": 3}\n{"task": "b"}\n')
    tasks_at(file)
    with monkeypatch.context() as patch:
        patch.setattr("lightning_coba.data.reading.task.read_file", lambda file: pytest.fail("read again"))
        assert [task.where for task in tasks_at(file)] == [{"task": 3}, {"task": "b"}]
    file.write_text('{"task": "new one"}\n')
    assert [task.where for task in tasks_at(file)] == [{"task": "new one"}]


@pytest.mark.parametrize("row", ['{"name": "x"}', '{"task": null}', '{"task": ""}', '{"task": ["x"]}'])
def test_row_that_names_no_task_is_named(tmp_path, row):
    (tmp_path / "all.jsonl").write_text(f'{{"task": "a"}}\n{row}\n')
    with pytest.raises(
        ValueError, match=r"all\.jsonl:2: column 'task' must name the row's task; got .*The columns are"
    ):
        tasks_at(tmp_path / "all.jsonl")


def test_tasks_whose_names_would_be_the_same_are_refused(tmp_path):
    file = tmp_path / "all.csv"
    file.write_text("kind\na b\na_b\n")
    with pytest.raises(ValueError, match="the tasks 'a b' and 'a_b' of column 'kind' would both be named 'a_b'"):
        tasks_at(file, column="kind")


def test_a_task_leads_to_no_other_folder_wherever_its_name_comes_from(tmp_path):
    write(tmp_path / "all.jsonl", *({"kind": kind, **ROW} for kind in ("../../x", "..", "-y", "/z")))
    assert [task.name for task in tasks_at(tmp_path / "all.jsonl", column="kind")] == ["_.", "_._.._x", "_y", "_z"]
    write(tmp_path / "folders" / "qa" / "train.jsonl", ROW)
    write(tmp_path / "folders" / ".ipynb_checkpoints" / "train.jsonl", ROW)
    assert [task.name for task in tasks_at(tmp_path / "folders")] == ["qa"]
    write(tmp_path / "files" / "-x.jsonl", ROW)
    with pytest.raises(ValueError, match=r"`Task\.name` must match"):
        tasks_at(tmp_path / "files")


def test_file_without_rows_has_no_tasks(tmp_path):
    (tmp_path / "all.jsonl").touch()
    with pytest.raises(ValueError, match=r"there is no row. Give it rows with a column 'task'"):
        tasks_at(tmp_path / "all.jsonl")


@pytest.mark.parametrize(
    ("argument", "value", "domain"),
    [
        ("where", {}, "None or a dict of column: value"),
        ("where", "task", "None or a dict of column: value"),
        ("chat", "yes", "True, False or None"),
        ("messages", "", "a column name"),
        ("max_rows", 0, "a whole number of at least 1 or None"),
        ("max_rows", True, "a whole number of at least 1 or None"),
        ("repeats", 0, "a finite number above 0"),
        ("repeats", float("nan"), "a finite number above 0"),
    ],
)
def test_options_outside_their_domain_are_refused(argument, value, domain):
    with pytest.raises(ValueError, match=re.escape(f"`Task.{argument}` must be {domain}; got {value!r} for task 'a'")):
        Task("a", "train.jsonl", **{argument: value})


def write(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(json.dumps(row) for row in rows))


ROW = {"prompt": "p", "completion": "c"}


def test_root_may_hold_a_folder_a_task_or_a_file_a_task(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / "folders" / name / "train.jsonl", ROW)
        write(tmp_path / "files" / f"{name}.jsonl", ROW)
    folders, files = tasks_at(tmp_path / "folders", chat=True), tasks_at(tmp_path / "files", prompt="q")
    assert [task.name for task in folders] == [task.name for task in files] == ["a", "b"]
    assert folders[0].chat is True
    assert files[0].prompt == "q"
    assert files[0].train == [tmp_path / "files" / "a.jsonl"]


def test_a_number_is_part_of_a_tasks_name_and_parts_of_a_file_are_one_task(tmp_path):
    parts = ["gsm8k-00000-of-00002.jsonl", "gsm8k-00001-of-00002.jsonl"]
    for name in (*parts, "banking77.jsonl", "clinc150.jsonl", "qa-1.jsonl", "qa-2.jsonl"):
        write(tmp_path / name, ROW)
    found = {task.name: [path.name for path in task.train] for task in tasks_at(tmp_path)}
    assert list(found) == ["banking77", "clinc150", "gsm8k", "qa-1", "qa-2"]
    assert found["gsm8k"] == parts


def test_numbered_files_of_splits_are_not_tasks(tmp_path):
    for name in ("train-1.jsonl", "train-2.jsonl", "test-00000-of-00001.jsonl"):
        write(tmp_path / name, ROW | {"task": "a"})
    [task] = tasks_at(tmp_path)
    assert (task.name, task.test) == ("a", tmp_path / "test-00000-of-00001.jsonl")


def test_root_may_be_files_with_a_task_column(tmp_path):
    both = [ROW | {"task": "b"}, ROW | {"task": "a"}]
    write(tmp_path / "one.jsonl", *both)
    write(tmp_path / "splits" / "train.jsonl", *both)
    write(tmp_path / "splits" / "test.jsonl", *both)
    for place in (tmp_path / "one.jsonl", tmp_path / "splits"):
        assert [(task.name, dict(task.where)) for task in tasks_at(place)] == [
            ("a", {"task": "a"}),
            ("b", {"task": "b"}),
        ]
    assert tasks_at(tmp_path / "splits")[0].test == tmp_path / "splits" / "test.jsonl"
    with pytest.raises(FileNotFoundError, match="The expected layout is"):
        tasks_at(tmp_path / "nowhere")


def test_what_lies_beside_the_tasks_is_named(tmp_path):
    write(tmp_path / "a" / "train.jsonl", ROW)
    write(tmp_path / "b" / "deep" / "train.jsonl", ROW)
    write(tmp_path / "c.jsonl", ROW)
    with pytest.warns(UserWarning, match="these are left out: b, c.jsonl"):
        assert [task.name for task in tasks_at(tmp_path)] == ["a"]


def test_the_splits_of_a_dataset_dict_are_its_own(tmp_path):
    rows = datasets.Dataset.from_list([{"prompt": "p", "completion": "c"}])
    both = datasets.DatasetDict(train=rows, test=rows)
    both.save_to_disk(tmp_path / "saved")
    for source in (both, tmp_path / "saved", str(tmp_path / "saved")):
        task = Task("t", source)
        assert task.test is source
        assert task.validation is None
    assert Task("t", both, test=rows).test is rows
