import random
import re
import warnings

import pytest

from lightning_coba.data.sources import Row
from lightning_coba.data.splits import carve, disjoint, fixed_subset, normalised


def rows(prompts, name="train.jsonl"):
    return [Row(prompt, f"c{i}", f"{name}:{i + 1}") for i, prompt in enumerate(prompts)]


def prompts(split):
    return {normalised(row.prompt) for row in split}


def test_carving_takes_a_tenth_each_and_loses_nothing():
    train = rows([f"question {i}" for i in range(200)])
    splits = carve("t", {"train": train})
    assert {split: len(part) for split, part in splits.items()} == {
        "train": 160,
        "validation": 20,
        "test": 20,
    }
    assert sorted(row for part in splits.values() for row in part) == sorted(train)
    assert not prompts(splits["train"]) & prompts(splits["validation"] + splits["test"])


def test_carving_does_not_depend_on_the_order_of_the_rows():
    train = rows([f"question {i}" for i in range(50)])
    shuffled = random.Random(0).sample(train, len(train))
    for split in ("validation", "test"):
        assert carve("t", {"train": train})[split] == carve("t", {"train": shuffled})[split]


def test_equal_prompts_stay_together():
    train = rows([f"  Question\t{i} " if copy else f"question {i}" for i in range(40) for copy in range(3)])
    splits = carve("t", {"train": train})
    assert len(splits["train"]) + len(splits["validation"]) + len(splits["test"]) == 120
    assert not prompts(splits["validation"]) & prompts(splits["test"])
    assert not prompts(splits["train"]) & prompts(splits["validation"] + splits["test"])


@pytest.mark.parametrize("given", ["validation", "test"])
def test_given_splits_are_left_alone(given):
    mine = rows(["mine"])
    splits = carve("t", {"train": rows(map(str, range(10))), given: mine})
    assert splits[given] is mine
    assert sorted(map(len, splits.values())) == [1, 1, 9]


def test_smallest_task_that_can_be_carved():
    assert sorted(map(len, carve("t", {"train": rows("abc")}).values())) == [1, 1, 1]
    with pytest.raises(ValueError, match="task 't' has 4 rows with 2 distinct prompts, too few to carve test and vali"):
        carve("t", {"train": rows("aAbb")})


def test_a_dominant_prompt_does_not_take_the_rows_of_the_other_splits():
    splits = carve("t", {"train": rows(["same"] * 50 + list("ab"))})
    assert min(map(len, splits.values())) == 1
    assert sum(map(len, splits.values())) == 52


OVERLAPPING = {
    "x": {
        "train": rows(["a", "b", "c"], "x/train"),
        "validation": rows(["d", "B "], "x/val"),
        "test": rows(["e"], "x/test"),
    },
    "y": {
        "train": rows(["f"], "y/train"),
        "validation": rows(["g"], "y/val"),
        "test": rows(["A", "D"], "y/test"),
    },
}


def test_overlaps_within_and_across_tasks_are_dropped_with_one_warning_per_task():
    with pytest.warns(UserWarning, match="rows were dropped") as caught:
        kept, dropped = disjoint(OVERLAPPING)
    assert dropped == {"x": 3, "y": 0}
    assert [row.prompt for row in kept["x"]["train"]] == ["c"]
    assert [row.prompt for row in kept["x"]["validation"]] == ["B "]
    assert kept["y"] == OVERLAPPING["y"]
    (warning,) = [str(warning.message) for warning in caught]
    for part in (
        "Task 'x': 3 rows",
        "1 train rows also in y/test",
        "1 train rows also in x/validation",
        "1 validation rows also in y/test",
        "x/train:1 (x/train) has the prompt of y/test:1 (y/test)",
    ):
        assert part in warning


def test_after_dropping_the_splits_are_disjoint():
    with warnings.catch_warnings(action="ignore"):
        kept, _ = disjoint(OVERLAPPING)
    split = {name: set().union(*(prompts(task[name]) for task in kept.values())) for name in kept["x"]}
    assert not split["train"] & (split["validation"] | split["test"])
    assert not split["validation"] & split["test"]


def test_overlap_error_names_both_lines():
    with pytest.raises(ValueError, match=re.escape("x/train:1 (x/train) has the prompt of y/test:1 (y/test)")):
        disjoint(OVERLAPPING, overlap="error")


@pytest.mark.filterwarnings("ignore:Task 'x'")
def test_split_of_which_nothing_is_left_is_an_error():
    tasks = {"x": {"train": rows("ab"), "validation": rows("A"), "test": rows("b")}}
    with pytest.raises(ValueError, match="Nothing is left of the train split of task 'x'"):
        disjoint(tasks)


def test_fixed_subset_depends_on_the_prompts_alone():
    some = rows(map(str, range(100)))
    subset = fixed_subset(some, 10)
    assert len(subset) == 10
    assert subset == sorted(set(subset))
    assert {some[i].prompt for i in subset} == {some[::-1][i].prompt for i in fixed_subset(some[::-1], 10)}
    assert set(subset) <= set(fixed_subset(some, 11))
    assert fixed_subset(some, None) == fixed_subset(some, 100) == list(range(100))


def test_subset_and_carving_use_independent_orders():
    # With one order, the subset of what carving takes next would be its first rows.
    splits = carve("t", {"train": rows(map(str, range(400)))})
    assert fixed_subset(splits["test"], 10) != list(range(10))
