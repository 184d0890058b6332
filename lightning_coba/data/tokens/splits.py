"""Disjoint splits: missing ones are carved out of train, and no prompt is in two splits of any tasks.

What belongs where follows from a hash of the prompt: neither the seed nor the order of the rows matters. Everything
here works on row numbers and 64-bit hashes, so that a million rows take a second.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_coba.errors import UserError

Overlap = Literal["drop", "error"]

_CARVED_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Splits:
    """Which rows of a task are in which split.

    Attributes:
        rows: split name -> row numbers, int64.
        identity: row number -> hash of its prompt, uint64.
        origin: row number -> where the row came from, for messages.
    """

    rows: Mapping[str, np.ndarray]
    identity: np.ndarray
    origin: Callable[[int], str]

    def hashes(self, split: str) -> np.ndarray:
        """Return the hashes of a split's prompts, uint64."""
        return self.identity[self.rows[split]]


def carve(task: str, splits: Splits) -> Splits:
    """Carve the missing splits out of train: the lowest tenth by hash becomes test, the next validation.

    Rows with equal prompts (white space and case ignored) stay together.

    Args:
        task: name for errors.
        splits: "train" must be there, what else is there is left alone.

    Returns:
        All three splits. Carved ones hold about a tenth of the given train rows, at least one row each, in
        the order of their hashes; train keeps its order.

    Raises:
        ValueError: train has too few distinct prompts to leave at least one row in every split.
    """
    missing = [split for split in ("test", "validation") if split not in splits.rows]
    if not missing:
        return splits
    train = splits.rows["train"]
    lowest_first = np.argsort(splits.hashes("train"), kind="stable")
    hashes = splits.hashes("train")[lowest_first]
    # ends[i] rows have one of the i + 1 lowest hashes.
    ends = np.append(np.flatnonzero(np.diff(hashes)) + 1, len(hashes))
    if len(ends) <= len(missing):
        raise UserError(
            f"The train split of task {task!r} has {len(train)} rows with {len(ends)} distinct prompts, too few to "
            f"carve {' and '.join(missing)} out of it.",
            f"Give it more rows, or a file for {' and '.join(missing)}.",
        )
    wanted = max(1, round(_CARVED_SHARE * len(train)))
    carved: dict[str, np.ndarray] = {}
    groups = begin = 0
    for later, split in zip(range(len(missing) - 1, -1, -1), missing, strict=True):
        # One prompt is left for train, and one for each split that is still to be carved.
        groups = min(int(np.searchsorted(ends, begin + wanted)) + 1, len(ends) - later - 1)
        carved[split] = train[lowest_first[begin : ends[groups - 1]]]
        begin = int(ends[groups - 1])
    rest = train[np.sort(lowest_first[begin:])]
    return replace(splits, rows={**splits.rows, **carved, "train": rest})


def disjoint(tasks: Mapping[str, Splits], overlap: Overlap = "drop") -> tuple[dict[str, Splits], dict[str, int]]:
    """Make sure that no prompt is trained on or steered by and also tested, in the same or another task.

    A train row goes if its prompt is in the validation or test split of any task, a validation row if its
    prompt is in the test split of any task.

    Args:
        tasks: task name -> its splits, all three.
        overlap: ``"drop"`` drops those rows, with one warning per task; ``"error"`` raises.

    Returns:
        The tasks without the dropped rows, and the number of dropped rows per task.

    Raises:
        ValueError: With ``overlap="error"``, the first overlap, naming both rows; else a split of which
            nothing is left.
    """
    shared = shared_prompts(tasks)
    kept: dict[str, Splits] = {}
    dropped: dict[str, int] = {}
    for task, splits in tasks.items():
        found = [prompts for prompts in shared if prompts.task == task]
        dropped[task] = sum(len(prompts.rows) for prompts in found)
        if found:
            _report(tasks, found, overlap)
        left = dict(splits.rows)
        for prompts in found:
            left[prompts.split] = left[prompts.split][~np.isin(left[prompts.split], prompts.rows)]
        _check_left(task, left)
        kept[task] = replace(splits, rows=left)
    return kept, dropped


class SharedPrompts(NamedTuple):
    """Rows of a split whose prompts are held out in another split, of the same or another task.

    Attributes:
        task: whose rows.
        split: of these rows; training drops them from it.
        other_task: where the prompts are held out.
        other_split: the same.
        rows: their numbers, int64, at least one.
        other_row: the row of the other task that has the prompt of the first of them.
    """

    task: str
    split: str
    other_task: str
    other_split: str
    rows: np.ndarray
    other_row: int


def shared_prompts(tasks: Mapping[str, Splits]) -> list[SharedPrompts]:
    """Return what `disjoint` would drop, a line for each pair of splits that share prompts.

    Args:
        tasks: task name -> its splits, all three.
    """
    found = []
    for split, later in (("train", ("test", "validation")), ("validation", ("test",))):
        homes = [(task, other) for other in later for task in tasks]
        home_of = np.repeat(np.arange(len(homes)), [len(tasks[task].rows[other]) for task, other in homes])
        row_of = np.concatenate([tasks[task].rows[other] for task, other in homes])
        # The first place of a prompt counts.
        held, first = np.unique(np.concatenate([tasks[task].hashes(other) for task, other in homes]), return_index=True)
        for task, splits in tasks.items():
            own = splits.hashes(split)
            nearest = np.minimum(np.searchsorted(held, own), len(held) - 1)
            mine = np.flatnonzero(held[nearest] == own)
            places = first[nearest[mine]]
            for home in np.unique(home_of[places]):
                there = home_of[places] == home
                (other_task, other), other_row = homes[home], int(row_of[places[there][0]])
                rows = splits.rows[split][mine[there]]
                found.append(SharedPrompts(task, split, other_task, other, rows, other_row))
    return found


def _report(tasks: Mapping[str, Splits], found: list[SharedPrompts], overlap: Overlap) -> None:
    task = found[0].task
    first = min((shared for shared in found if shared.split == found[0].split), key=lambda shared: shared.rows[0])
    example = (
        f"{tasks[task].origin(int(first.rows[0]))} ({task}/{first.split}) has the prompt of "
        f"{tasks[first.other_task].origin(first.other_row)} ({first.other_task}/{first.other_split})"
    )
    if overlap == "error":
        raise UserError(
            f"The splits must be disjoint, but {example}.",
            'Delete one of the two, or set MultitaskDataModule.overlap="drop".',
        )
    counts = [
        f"{len(shared.rows)} {shared.split} rows also in {shared.other_task}/{shared.other_split}" for shared in found
    ]
    rank_zero_warn(
        f"Task {task!r}: {sum(len(shared.rows) for shared in found)} rows were dropped, because their "
        f"prompts are in another split too: {', '.join(counts)}. For example, {example}."
    )


def _check_left(task: str, splits: Mapping[str, np.ndarray]) -> None:
    for split, rows in splits.items():
        if not len(rows):
            raise UserError(
                f"Nothing is left of the {split} split of task {task!r}: all its prompts are held out for validation "
                "or test, there or in another task.",
                "Give it other rows, or tell its prompts from the others by naming the task in them.",
            )


def fixed_subset(ranks: np.ndarray, num_rows: int | None) -> np.ndarray:
    """Choose the rows that are evaluated: always the same, whatever the seed and the order of the rows.

    Args:
        ranks: a hash of each row's prompt, uint64 ``[rows]``, independent of the one that splits are carved by.
        num_rows: how many at most; ``None`` takes all.

    Returns:
        Indices of the lowest ranks, increasing, int64.
    """
    if num_rows is None or num_rows >= len(ranks):
        return np.arange(len(ranks))
    return np.sort(np.argsort(ranks, kind="stable")[:num_rows])
