import json

import pytest

from lightning_coba.data import MultitaskDataModule, Task, tasks_at
from lightning_coba.data.reading.found_tasks import find_tasks


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path.with_suffix(".cache")))


def test_folder_gives_its_tasks_sorted_and_optional_splits(tmp_path):
    for path in ("b/train.jsonl", "b/test.jsonl", "a/train.jsonl", "a/validation.jsonl", "empty/notes.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    with pytest.warns(UserWarning, match="Not read: .*empty. Rows"):
        first, second = tasks_at(tmp_path)
    assert first == Task("a", tmp_path / "a/train.jsonl", validation=tmp_path / "a/validation.jsonl")
    assert second == Task("b", tmp_path / "b/train.jsonl", test=tmp_path / "b/test.jsonl")


def test_missing_and_empty_folders_show_the_layout(tmp_path):
    for root, start in (
        (tmp_path / "nowhere", "There is no folder or file"),
        (tmp_path, "No task"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            tasks_at(root)
        assert str(caught.value).startswith(start)
        assert f"{root}/<task>/train.jsonl" in str(caught.value)
        assert '{"prompt": ..., "completion": ...} or {"messages": [...]} per row' in str(caught.value)
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
    assert find_tasks(file).tasks == [
        Task("nlu", file, where={"task": "nlu"}),
        Task("open_qa", file, where={"task": "open qa"}),
    ]


def test_tasks_of_a_file_are_looked_for_again_only_when_it_changes(tmp_path, monkeypatch):
    file = tmp_path / "all.jsonl"
    file.write_text('{"task": "b"}\n{"task": 3}\n{"task": "b"}\n')
    tasks_at(file)
    with monkeypatch.context() as patch:
        patch.setattr("lightning_coba.data.reading.found_tasks.read_file", lambda file: pytest.fail("read again"))
        assert [task.where for task in tasks_at(file)] == [{"task": 3}, {"task": "b"}]
    file.write_text('{"task": "new"}\n')
    assert [task.where for task in tasks_at(file)] == [{"task": "new"}]


@pytest.mark.parametrize("row", ['{"name": "x"}', '{"task": null}', '{"task": ""}', '{"task": ["x"]}'])
def test_row_that_names_no_task_is_named(tmp_path, row):
    (tmp_path / "all.jsonl").write_text(f'{{"task": "a"}}\n{row}\n')
    with pytest.raises(
        ValueError, match=r"all\.jsonl:2: column 'task' must name the row's task; got .*The columns are"
    ):
        tasks_at(tmp_path / "all.jsonl")


def test_values_of_a_column_that_lead_to_one_name_get_names_of_their_own(tmp_path):
    file = tmp_path / "all.csv"
    file.write_text("kind\na b\na_b\n")
    found = find_tasks(file, column="kind")
    assert [(task.name, task.where["kind"]) for task in found.tasks] == [("a_b", "a_b"), ("a_b_2", "a b")]
    assert found.renamed == {"a_b_2": "a b"}


def test_a_task_leads_to_no_other_folder_wherever_its_name_comes_from(tmp_path):
    write(tmp_path / "all.jsonl", *({"kind": kind, **ROW} for kind in ("../../x", "..", "-y", "/z")))
    assert [task.name for task in find_tasks(tmp_path / "all.jsonl", column="kind").tasks] == ["task", "x", "y", "z"]
    write(tmp_path / "folders" / "qa" / "train.jsonl", ROW)
    write(tmp_path / "folders" / ".ipynb_checkpoints" / "train.jsonl", ROW)
    assert [task.name for task in tasks_at(tmp_path / "folders")] == ["qa"]
    write(tmp_path / "files" / "-x.jsonl", ROW)
    assert [task.name for task in find_tasks(tmp_path / "files").tasks] == ["x"]


def test_folders_may_have_any_name_and_what_became_of_it_is_said_once(tmp_path):
    for name in ("qa", "my task (v2)", "my_task_v2", "donn\u00e9es", "\u6570\u5b66"):
        write(tmp_path / name / "train.jsonl", ROW)
    with pytest.warns(UserWarning, match="Renamed") as warned:
        module = MultitaskDataModule(root=tmp_path)
    assert module.task_names == ["donnees", "my_task_v2", "my_task_v2_2", "qa", "task"]
    assert module.tasks[2].train == tmp_path / "my task (v2)" / "train.jsonl"
    [said] = [str(warning.message) for warning in warned]
    for renamed in ("'donn\u00e9es' to 'donnees'", "'my task (v2)' to 'my_task_v2_2'", "'\u6570\u5b66' to 'task'"):
        assert renamed in said


def test_file_without_rows_has_no_tasks(tmp_path):
    (tmp_path / "all.jsonl").touch()
    with pytest.raises(ValueError, match=r"there is no row. Give it rows with a column 'task'"):
        tasks_at(tmp_path / "all.jsonl")


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


def test_what_lies_beside_the_tasks_is_named_once(tmp_path):
    write(tmp_path / "a" / "train.jsonl", ROW)
    write(tmp_path / "a" / "old.txt", ROW)
    write(tmp_path / "b" / "deep" / "train.jsonl", ROW)
    for name in ("c.jsonl", "README.md", ".hidden"):
        write(tmp_path / name, ROW)
    with pytest.warns(UserWarning, match="Not read") as warned:
        assert [task.name for task in tasks_at(tmp_path)] == ["a"]
    [told] = [str(warning.message) for warning in warned]
    assert told.startswith(f"Not read: {tmp_path}/a/old.txt, {tmp_path}/b, {tmp_path}/c.jsonl. Rows are read from")


def test_arrays_are_tasks_and_the_objects_beside_them_are_not(tmp_path):
    for name, content in {"alpaca": [ROW], "sharegpt": [ROW], "dataset_info": {"alpaca": {}}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = find_tasks(tmp_path)
    assert [task.name for task in found.tasks] == ["alpaca", "sharegpt"]
    assert found.unread == [str(tmp_path / "dataset_info.json")]


def test_a_folder_of_other_files_names_them(tmp_path):
    (tmp_path / "rows.xlsx").touch()
    with pytest.raises(FileNotFoundError, match=r"No task was found in .*, which holds rows\.xlsx\. The expected"):
        tasks_at(tmp_path)


def test_several_places_are_read_together(tmp_path):
    write(tmp_path / "one" / "b.jsonl", ROW)
    write(tmp_path / "two" / "a" / "train.jsonl", ROW)
    places = [tmp_path / "one", str(tmp_path / "two")]
    assert MultitaskDataModule(root=places).task_names == ["a", "b"]
    write(tmp_path / "two" / "b" / "train.jsonl", ROW)
    with pytest.raises(ValueError, match="two of the places have a task named 'b'"):
        tasks_at(places)
