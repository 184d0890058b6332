import json
import re

import datasets
import pytest

from lightning_coba.data.reading.found_tasks import tasks_at
from lightning_coba.data.reading.hub import loaded
from lightning_coba.data.reading.sources import parts_of
from lightning_coba.data.reading.task import Task

ROWS = [{"prompt": str(i), "completion": "c"} for i in range(3)]


def records(source, split="train"):
    """Return (origin, fields) of all records of a source."""
    task = Task("t", **{"train": "unread", split: source})
    return [(f"{part.prefix}{number}", fields) for part in parts_of(task, split) for number, fields in part.records()]


@pytest.fixture
def files(tmp_path):
    found = []
    for name in "ab":
        found.append(tmp_path / f"{name}.jsonl")
        found[-1].write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))
    return found


def test_paths_folders_globs_and_their_lists_read_the_same_records(tmp_path, files):
    expected = [(f"{file}:{line}", ROWS[line - 1]) for file in files for line in (1, 2)]
    for source in (tmp_path, str(tmp_path), str(tmp_path / "*.jsonl"), files, iter(files), [str(tmp_path)]):
        assert records(source) == expected


def test_iterables_of_dicts_are_read_once_and_name_their_item():
    expected = [(f"task 't', train item {number}", row) for number, row in enumerate(ROWS)]
    assert records(iter(ROWS)) == records(ROWS) == records(tuple(ROWS)) == expected


def test_only_files_and_datasets_have_a_stamp(files):
    sources = (files, datasets.Dataset.from_list(ROWS), ROWS, iter(ROWS))
    found = [{part.stamp is not None for part in parts_of(Task("t", source), "train")} for source in sources]
    assert found == [{True}, {True}, {False}, {False}]


def test_datasets_name_their_rows():
    dataset = datasets.Dataset.from_list([*ROWS, *ROWS]).select([4, 2])
    expected = [("task 't', test row 0", ROWS[1]), ("task 't', test row 1", ROWS[2])]
    assert records(dataset, "test") == records(dataset.to_iterable_dataset(), "test") == expected
    assert records(datasets.DatasetDict(test=dataset), "test") == expected


def test_missing_split_of_a_dataset_names_those_there_are(tmp_path):
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))
    with pytest.raises(ValueError, match=r"task 't', test: the datasets have no split 'test', only 'train'"):
        records(both, "test")
    both.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"the saved dataset '.*saved' has no split 'test', only 'train'"):
        records(tmp_path / "saved", "test")


def test_saved_datasets_are_read_by_split(tmp_path):
    dataset = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=dataset.select([2]), validation=dataset).save_to_disk(tmp_path / "both")
    dataset.save_to_disk(tmp_path / "one")
    assert records(tmp_path / "both") == [(f"{tmp_path}/both/train row 0", ROWS[2])]
    assert [row for _, row in records(str(tmp_path / "both"), "validation")] == ROWS
    assert [row for _, row in records(tmp_path / "one", "test")] == ROWS
    (part,) = parts_of(Task("t", tmp_path / "one"), "train")
    assert part.stamp is not None


@pytest.fixture
def hub(monkeypatch):
    """Let the hub hold one data set, and count how often it is asked."""
    asked = []
    there = datasets.Dataset.from_list(ROWS)

    def load(name, config):
        asked.append((name, config))
        return datasets.DatasetDict(train=there, dev=there.select([1]), extra=there)

    monkeypatch.setattr(datasets, "load_dataset", load)
    loaded.cache_clear()
    yield asked
    loaded.cache_clear()


@pytest.mark.parametrize(
    ("text", "config"), [("hf:squad", None), ("hf:org/name", None), ("hf:org/name:de-en", "de-en"), ("org/name", None)]
)
def test_ids_of_the_hub_are_loaded_once_with_their_configuration(hub, text, config):
    assert [row for _, row in records(text)] == ROWS
    assert [row for _, row in records(text, "validation")] == [ROWS[1]]  # called dev there
    assert hub == [(text.removeprefix("hf:").partition(":")[0], config)]


def test_a_data_set_of_the_hub_is_a_task_with_its_own_splits(hub):
    [first, second] = tasks_at(["hf:org/name", "hf:org/name:de-en"])
    assert (first.name, first.train, first.validation, first.test) == ("name", "hf:org/name", "hf:org/name", None)
    assert second.name == "name_de-en"


def test_a_split_that_a_data_set_of_the_hub_lacks_names_those_there_are(hub):
    with pytest.raises(ValueError, match="has no split 'test', only 'train', 'dev', 'extra'"):
        records("hf:org/name", "test")
    with pytest.raises(ValueError, match=r"'hf:a b' is no data set .*Write hf:org/name, or"):
        Task("t", "hf:a b")


def test_a_hub_that_is_not_reached_is_one_sentence_and_what_to_check(monkeypatch):
    def refuse(*args):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(FileNotFoundError, match=r"^the data set 'org/none' does not load from the Hugging Face hub \("):
        tasks_at("hf:org/none")
    with pytest.raises(FileNotFoundError) as caught:
        records("org/none")
    for part in ("task 't', train", "no file or folder 'org/none'", "ConnectionError: no route to the hub"):
        assert part in str(caught.value)


def test_paths_in_existing_folders_and_names_of_data_files_are_no_hub_ids(monkeypatch, tmp_path, files):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path.parent)
    assert len(records(f"{tmp_path.name}/a.jsonl")) == 2
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        records("data/train.jsonl")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        records(f"{tmp_path.name}/mistyped")
    (tmp_path / "sub").mkdir()
    with pytest.raises(FileNotFoundError, match="the folder holds no data file"):
        records(f"{tmp_path.name}/sub")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ([ROWS[0], ("p", "c")], "task 't', train item 1: a row must be a dict such as"),
        (["a.jsonl", ROWS[0]], "task 't', train: a list of paths must hold paths alone; got dict"),
    ],
)
def test_items_that_are_neither_rows_nor_paths_are_named(tmp_path, monkeypatch, source, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(ValueError, match=re.escape(complaint)):
        records(source)
