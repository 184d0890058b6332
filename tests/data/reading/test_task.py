import re

import datasets
import pytest

from lightning_coba.data import Task


@pytest.mark.parametrize("name", ["", "a b", "a/b", "qa\n", "ü", None, ".", "..", "../x", "-x", ".hidden", "x\0"])
def test_name_with_other_characters_is_refused(name):
    with pytest.raises(ValueError, match=r"`Task.name` may hold letters without accents, digits.* Call it '"):
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


def test_the_splits_of_a_dataset_dict_are_its_own(tmp_path):
    rows = datasets.Dataset.from_list([{"prompt": "p", "completion": "c"}])
    both = datasets.DatasetDict(train=rows, test=rows)
    both.save_to_disk(tmp_path / "saved")
    for source in (both, tmp_path / "saved", str(tmp_path / "saved")):
        task = Task("t", source)
        assert task.test is source
        assert task.validation is None
    assert Task("t", both, test=rows).test is rows
