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
        text: What they spell.
        learned: Whether the loss is on them.
        special: Whether they are special tokens, such as the end token.
    """

    text: str
    learned: bool
    special: bool


@dataclass(frozen=True)
class Example:
    """A training row of a task, rendered.

    Attributes:
        task: Name of the task.
        place: Where the row is from.
        pieces: Its tokens in order.
    """

    task: str
    place: str
    pieces: Sequence[Piece]


def example_of(task: InspectedTask, tokenizer: Any) -> Example:
    """Render the training row whose length is the median."""
    rows = task.kept["train"]
    row = int(rows[np.argsort(task.tokens.numbers("num_tokens")[rows], kind="stable")[len(rows) // 2]])
    special = set(tokenizer.all_special_ids)
    ids, learned = (task.tokens.table.column(name)[row].as_py() for name in ("ids", "learned"))
    tokens = [(token, bool(flag), token in special) for token, flag in zip(ids, learned, strict=True)]
    runs = groupby(tokens, key=lambda token: token[1:])
    pieces = [Piece(tokenizer.decode([token for token, *_ in run]), *kind) for kind, run in runs]
    return Example(task.name, task.origin(row), pieces)
