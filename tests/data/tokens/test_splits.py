import random
import re
import warnings

import numpy as np
import pytest

from lightning_coba.data.reading.rows import Row, digest, normalised
from lightning_coba.data.tokens.splits import Splits, carve, disjoint, fixed_subset


def hashes(prompts):
    return np.array([digest(Row(prompt, "c")) for prompt in prompts], np.uint64)


class Texts:
    """Splits made of prompts, which can be read back."""

    def __init__(self, name="t", **prompts):
        self.flat = [prompt for split in prompts.values() for prompt in split]
        ends = np.cumsum([0, *map(len, prompts.values())])
        rows = {split: np.arange(ends[i], ends[i + 1]) for i, split in enumerate(prompts)}
        origins = [f"{name}/{split}:{line}" for split in prompts for line in range(1, len(prompts[split]) + 1)]
        self.splits = Splits(rows, hashes(self.flat)[:, 0].astype(np.uint64), origins.__getitem__)

    def prompts(self, splits):
        return {split: [self.flat[row] for row in rows] for split, rows in splits.rows.items()}


def carved(**prompts):
    texts = Texts(**prompts)
    return texts.prompts(carve("t", texts.splits))


def distinct(*parts):
    return {normalised(prompt) for part in parts for prompt in part}


def test_carving_takes_a_tenth_each_and_loses_nothing():
    train = [f"question {i}" for i in range(200)]
    splits = carved(train=train)
    assert {split: len(part) for split, part in splits.items()} == {"train": 160, "validation": 20, "test": 20}
    assert sorted(row for part in splits.values() for row in part) == sorted(train)
    assert splits["train"] == [prompt for prompt in train if prompt in set(splits["train"])]


def test_carving_takes_the_lowest_hashes_test_first():
    train = [f"question {i}" for i in range(200)]
    splits = carved(train=train)
    assert splits["test"] + splits["validation"] == sorted(train, key=lambda prompt: digest(Row(prompt, "")))[:40]


def test_carving_does_not_depend_on_the_order_of_the_rows():
    train = [f"question {i}" for i in range(50)]
    shuffled = random.Random(0).sample(train, len(train))
    for split in ("validation", "test"):
        assert carved(train=train)[split] == carved(train=shuffled)[split]


def test_equal_prompts_stay_together():
    splits = carved(train=[f"  Question\t{i} " if copy else f"question {i}" for i in range(40) for copy in range(3)])
    assert sum(map(len, splits.values())) == 120
    assert not distinct(splits["validation"]) & distinct(splits["test"])
    assert not distinct(splits["train"]) & distinct(splits["validation"], splits["test"])


@pytest.mark.parametrize("given", ["validation", "test"])
def test_given_splits_are_left_alone(given):
    splits = carved(train=list(map(str, range(10))), **{given: ["mine"]})
    assert splits[given] == ["mine"]
    assert sorted(map(len, splits.values())) == [1, 1, 9]


def test_smallest_task_that_can_be_carved():
    assert sorted(map(len, carved(train="abc").values())) == [1, 1, 1]
    with pytest.raises(ValueError, match="task 't' has 4 rows with 2 distinct prompts, too few to carve test and vali"):
        carved(train="aAbb")


def test_a_dominant_prompt_does_not_take_the_rows_of_the_other_splits():
    splits = carved(train=["same"] * 50 + list("ab"))
    assert min(map(len, splits.values())) == 1
    assert sum(map(len, splits.values())) == 52


@pytest.fixture
def overlapping():
    return {
        "x": Texts("x", train=["a", "b", "c"], validation=["d", "B "], test=["e"]),
        "y": Texts("y", train=["f"], validation=["g"], test=["A", "D"]),
    }


def splits_of(texts):
    return {task: prompts.splits for task, prompts in texts.items()}


def test_overlaps_within_and_across_tasks_are_dropped_with_one_warning_per_task(overlapping):
    with pytest.warns(UserWarning, match="rows were dropped") as caught:
        kept, dropped = disjoint(splits_of(overlapping))
    assert dropped == {"x": 3, "y": 0}
    assert overlapping["x"].prompts(kept["x"]) == {"train": ["c"], "validation": ["B "], "test": ["e"]}
    assert overlapping["y"].prompts(kept["y"]) == overlapping["y"].prompts(overlapping["y"].splits)
    (warning,) = [str(warning.message) for warning in caught]
    for part in (
        "Task 'x': 3 rows",
        "1 train rows also in y/test",
        "1 train rows also in x/validation",
        "1 validation rows also in y/test",
        "x/train:1 (x/train) has the prompt of y/test:1 (y/test)",
    ):
        assert part in warning


def test_after_dropping_the_splits_are_disjoint(overlapping):
    with warnings.catch_warnings(action="ignore"):
        kept, _ = disjoint(splits_of(overlapping))
    split = {
        name: distinct(*(overlapping[task].prompts(kept[task])[name] for task in kept))
        for name in ("train", "validation", "test")
    }
    assert not split["train"] & (split["validation"] | split["test"])
    assert not split["validation"] & split["test"]


def test_overlap_error_names_both_lines(overlapping):
    with pytest.raises(ValueError, match=re.escape("x/train:1 (x/train) has the prompt of y/test:1 (y/test)")):
        disjoint(splits_of(overlapping), overlap="error")


def test_tasks_without_overlap_are_left_alone(recwarn):
    texts = Texts(train="abc", validation="d", test="e")
    kept, dropped = disjoint({"t": texts.splits})
    assert texts.prompts(kept["t"]) == texts.prompts(texts.splits)
    assert dropped == {"t": 0}
    assert not recwarn


@pytest.mark.filterwarnings("ignore:Task 'x'")
def test_split_of_which_nothing_is_left_is_an_error():
    with pytest.raises(ValueError, match="Nothing is left of the train split of task 'x'"):
        disjoint({"x": Texts(train="ab", validation="A", test="b").splits})


def test_fixed_subset_depends_on_the_prompts_alone():
    prompts = list(map(str, range(100)))
    ranks = hashes(prompts)[:, 1]
    subset = fixed_subset(ranks, 10).tolist()
    assert len(subset) == 10
    assert subset == sorted(set(subset))
    assert {prompts[i] for i in subset} == {prompts[::-1][i] for i in fixed_subset(ranks[::-1], 10)}
    assert set(subset) <= set(fixed_subset(ranks, 11).tolist())
    assert fixed_subset(ranks, None).tolist() == fixed_subset(ranks, 100).tolist() == list(range(100))


def test_subset_and_carving_use_independent_orders():
    # With one order, the subset of what carving takes next would be its first rows.
    texts = Texts(train=list(map(str, range(400))))
    test = carve("t", texts.splits).rows["test"]
    assert fixed_subset(hashes(texts.flat)[test, 1], 10).tolist() != list(range(10))
