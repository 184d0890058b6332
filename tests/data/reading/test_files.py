import json
from pathlib import Path

import pytest

from lightning_coba.data.reading.files import find_files, split_sources, stamp
from lightning_coba.data.reading.task import Task


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folder_glob_and_file_give_the_same_files(tmp_path):
    touch(tmp_path, "b.jsonl", "a.jsonl", "notes.txt")
    expected = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in (tmp_path, str(tmp_path), str(tmp_path / "*.jsonl")):
        assert find_files(path, "here") == expected
    assert find_files(tmp_path / "notes.txt", "here") == [tmp_path / "notes.txt"]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("x*.jsonl", "no file matches the pattern"), ("x.jsonl", "no such file or folder"), (".", "holds no data file")],
)
def test_paths_that_lead_nowhere_are_named(tmp_path, name, complaint):
    with pytest.raises(FileNotFoundError, match=f"here: .*{complaint}") as caught:
        find_files(tmp_path / name, "here")
    assert str(tmp_path / name) in str(caught.value)


def test_splits_are_found_by_name_in_any_format(tmp_path):
    shards = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    touch(tmp_path, *shards, "val.csv", "test/a.jsonl.gz", "trainer.jsonl", "README.md")
    assert split_sources(tmp_path) == {
        "train": [tmp_path / shard for shard in shards],
        "validation": tmp_path / "val.csv",
        "test": tmp_path / "test",
    }


def test_files_of_other_names_are_all_train(tmp_path):
    touch(tmp_path, "part1.jsonl", "part2.csv")
    assert split_sources(tmp_path) == {"train": tmp_path}
    touch(tmp_path, "train.jsonl")
    assert split_sources(tmp_path) == {"train": tmp_path / "train.jsonl"}


def test_folder_without_data_has_no_splits_and_one_without_train_is_refused(tmp_path):
    touch(tmp_path, "notes.txt")
    assert split_sources(tmp_path) == {}
    touch(tmp_path, "test.jsonl")
    with pytest.raises(FileNotFoundError, match=r"has rows for test, but none for train. Add train.jsonl"):
        split_sources(tmp_path)


def test_saved_datasets_are_told_by_their_files(tmp_path):
    touch(tmp_path, "one/state.json", "one/dataset_info.json", "both/train/state.json")
    (tmp_path / "both/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test", "extra"]}))
    assert split_sources(tmp_path / "one") == {"train": tmp_path / "one"}
    assert split_sources(tmp_path / "both") == {"train": tmp_path / "both"}
    task = Task("t", **split_sources(tmp_path / "both"))
    assert (task.validation, task.test) == (None, tmp_path / "both")


def test_stamp_changes_with_the_file(tmp_path):
    touch(tmp_path, "a")
    before = stamp(tmp_path / "a")
    assert stamp(tmp_path / "a") == before
    (tmp_path / "a").write_text("x")
    assert stamp(tmp_path / "a") != before


@pytest.mark.parametrize(
    "names",
    [
        ("train-0.jsonl", "train-1.jsonl", "validation-0.jsonl"),
        ("train_0.csv", "train_1.csv", "val_0.csv"),
        ("train.part1.jsonl", "train.part2.jsonl", "dev.part1.jsonl"),
        ("Train.jsonl", "train1.jsonl", "Valid.jsonl"),
    ],
)
def test_numbered_files_of_a_split_are_that_split(tmp_path, names):
    touch(tmp_path, *names)
    sources = split_sources(tmp_path)
    assert sources == {"train": sorted(tmp_path / name for name in names[:2]), "validation": tmp_path / names[2]}


@pytest.mark.parametrize("name", ["x_test.jsonl", "train_extra.jsonl", "my-val.csv", "held.dev.parquet"])
def test_file_that_may_be_held_out_is_never_trained_on_silently(tmp_path, name):
    touch(tmp_path, "a.jsonl", name)
    with pytest.raises(ValueError, match=rf"{name}.*could be held-out data. Name it train, validation or test"):
        split_sources(tmp_path)
