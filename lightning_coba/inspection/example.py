"""A row as the model reads it: which text is read, which is learned, and which tokens stand around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from lightning_coba.inspection.inspected_task import InspectedTask


class Piece(NamedTuple):
    """A run of tokens of one kind.

    Attributes:
        text: what they spell.
        learned: whether the loss is on them.
        special: whether they are special tokens, such as the end token.
        num_tokens: how many.
    """

    text: str
    learned: bool
    special: bool
    num_tokens: int


@dataclass(frozen=True)
class Example:
    """A training row of a task, rendered.

    Attributes:
        task: its name.
        place: where the row is from.
        pieces: its tokens in order.
    """

    task: str
    place: str
    pieces: Sequence[Piece]


def example_of(task: InspectedTask, tokenizer: Any) -> Example:
    """Render the training row whose length is the median."""
    rows = task.kept["train"]
    lengths = task.tokens.numbers("num_tokens")[rows]
    row = int(rows[np.argsort(lengths, kind="stable")[len(rows) // 2]])
    ids, learned = (task.tokens.table.column(name)[row].as_py() for name in ("ids", "learned"))
    special = set(tokenizer.all_special_ids)
    kinds = [(bool(flag), token in special) for token, flag in zip(ids, learned, strict=True)]
    pieces = []
    for kind, run in groupby(zip(kinds, ids, strict=True), key=lambda pair: pair[0]):
        tokens = [token for _, token in run]
        pieces.append(Piece(tokenizer.decode(tokens), kind[0], kind[1], len(tokens)))
    return Example(task.name, task.origin(row), pieces)
