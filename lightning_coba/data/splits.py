"""Disjoint splits: missing ones are carved out of train, and no prompt is in two splits of any tasks.

What belongs where follows from a hash of the prompt: neither the seed nor the order of the rows matters.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn

from lightning_coba.data.sources import Row
from lightning_coba.data.task import SPLITS

Overlap = Literal["drop", "error"]
Splits = dict[str, list[Row]]

_CARVED_SHARE = 0.1


def normalised(prompt: str) -> str:
    r"""Return the prompt as it is compared with others: white space collapsed, case ignored.

    Example:
        >>> normalised("  Hello\n World ")
        'hello world'
    """
    return " ".join(prompt.split()).casefold()


def _rank(prompt: str, purpose: str) -> bytes:
    # Another purpose gives an independent order: the evaluation subset is not the rim of the carved split.
    return blake2b(normalised(prompt).encode(), digest_size=16, person=purpose.encode()).digest()


def carve(task: str, splits: Mapping[str, list[Row]]) -> Splits:
    """Carve the missing splits out of train: the lowest tenth by hash becomes test, the next validation.

    Rows with equal prompts (white space and case ignored) stay together.

    Args:
        task: name for errors.
        splits: split name -> rows; "train" must be there, what else is there is left alone.

    Returns:
        All three splits. Carved ones hold about a tenth of the given train rows, at least one row each, in
        the order of their hashes; train keeps its order.

    Raises:
        ValueError: train has too few distinct prompts to leave at least one row in every split.
    """
    missing = [split for split in ("test", "validation") if split not in splits]
    if not missing:
        return dict(splits)
    groups: dict[bytes, list[Row]] = defaultdict(list)
    for row in splits["train"]:
        groups[_rank(row.prompt, "carve")].append(row)
    if len(groups) <= len(missing):
        raise ValueError(
            f"The train split of task {task!r} has {len(splits['train'])} rows with {len(groups)} distinct "
            f"prompts, too few to carve {' and '.join(missing)} out of it. Give more rows, or these splits."
        )
    wanted = max(1, round(_CARVED_SHARE * len(splits["train"])))
    lowest_first = sorted(groups)
    carved: Splits = {split: [] for split in missing}
    taken: set[bytes] = set()
    for later, split in zip(range(len(missing) - 1, -1, -1), missing, strict=True):
        # One group is left for train, and one for each split that is still to be carved.
        while len(carved[split]) < wanted and len(lowest_first) - len(taken) > later + 1:
            rank = lowest_first[len(taken)]
            carved[split] += groups[rank]
            taken.add(rank)
    train = [row for row in splits["train"] if _rank(row.prompt, "carve") not in taken]
    return {**splits, **carved, "train": train}


def disjoint(tasks: Mapping[str, Splits], overlap: Overlap = "drop") -> tuple[dict[str, Splits], dict[str, int]]:
    """Make sure that no prompt is trained on or steered by and also tested, in the same or another task.

    A train row goes if its prompt is in the validation or test split of any task, a validation row if its
    prompt is in the test split of any task.

    Args:
        tasks: task name -> split -> rows.
        overlap: ``"drop"`` drops those rows, with one warning per task; ``"error"`` raises.

    Returns:
        The tasks without the dropped rows, and the number of dropped rows per task.

    Raises:
        ValueError: With ``overlap="error"``, the first overlap, naming both rows; else a split of which
            nothing is left.
    """
    tested = _prompts(tasks, "test")
    taken = {"train": _prompts(tasks, "validation") | tested, "validation": tested, "test": {}}
    kept: dict[str, Splits] = {}
    dropped: dict[str, int] = {}
    for task, splits in tasks.items():
        hits: list[tuple[str, Row, str, Row]] = []
        kept[task] = {}
        for split in SPLITS:
            found = [(row, taken[split].get(normalised(row.prompt))) for row in splits[split]]
            kept[task][split] = [row for row, hit in found if hit is None]
            hits += [(split, row, *hit) for row, hit in found if hit is not None]
        dropped[task] = len(hits)
        if hits:
            _report(task, hits, overlap)
        _check_left(task, kept[task])
    return kept, dropped


def _prompts(tasks: Mapping[str, Splits], split: str) -> dict[str, tuple[str, Row]]:
    """Map each prompt of a split, over all tasks, to where it occurs."""
    return {normalised(row.prompt): (f"{task}/{split}", row) for task, splits in tasks.items() for row in splits[split]}


def _report(task: str, hits: list[tuple[str, Row, str, Row]], overlap: Overlap) -> None:
    split, row, other, other_row = hits[0]
    example = f"{row.origin} ({task}/{split}) has the prompt of {other_row.origin} ({other})"
    if overlap == "error":
        raise ValueError(
            f"The splits must be disjoint, but {example}. Delete one of the two, or set "
            'MultitaskDataModule.overlap="drop".'
        )
    counts: dict[str, int] = defaultdict(int)
    for split, _, other, _ in hits:
        counts[f"{split} rows also in {other}"] += 1
    listed = ", ".join(f"{count} {what}" for what, count in counts.items())
    rank_zero_warn(
        f"Task {task!r}: {len(hits)} rows were dropped, because splits must be disjoint: {listed}. "
        f"For example, {example}."
    )


def _check_left(task: str, splits: Splits) -> None:
    for split, rows in splits.items():
        if not rows:
            raise ValueError(
                f"Nothing is left of the {split} split of task {task!r}: all its prompts are held out for "
                "validation or test, there or in another task. Give other rows, or name the task in prompts."
            )


def fixed_subset(rows: Sequence[Row], num_rows: int | None) -> list[int]:
    """Choose the rows that are evaluated: always the same, whatever the seed and the order of the rows.

    Args:
        rows: the rows of a split.
        num_rows: how many at most; ``None`` takes all.

    Returns:
        Indices into ``rows``, increasing.
    """
    if num_rows is None or num_rows >= len(rows):
        return list(range(len(rows)))
    ranks = [_rank(row.prompt, "subset") for row in rows]
    return sorted(sorted(range(len(rows)), key=lambda index: (ranks[index], index))[:num_rows])
