import re

import pytest

from lightning_coba.data import Task, tasks_in_folder


@pytest.mark.parametrize("name", ["", "a b", "a/b", "qa\n", "ü", None])
def test_name_with_other_characters_is_refused(name):
    with pytest.raises(ValueError, match=re.escape("`Task.name` must match [A-Za-z0-9_.-]+")):
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
    first, second = tasks_in_folder(tmp_path)
    assert first == Task("a", tmp_path / "a/train.jsonl", validation=tmp_path / "a/validation.jsonl")
    assert second == Task("b", tmp_path / "b/train.jsonl", test=tmp_path / "b/test.jsonl")


def test_missing_and_empty_folders_show_the_layout(tmp_path):
    for root, start in (
        (tmp_path / "nowhere", "`tasks_in_folder.root` must be a folder"),
        (tmp_path, "No task"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            tasks_in_folder(root)
        assert str(caught.value).startswith(start)
        assert f"{root}/<task>/train.jsonl" in str(caught.value)
        assert '{"prompt": ..., "completion": ...} a line' in str(caught.value)
