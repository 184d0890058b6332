"""The rows of a task as an inspection sees them: texts, lengths that nothing has cut, and which split has which."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from lightning_coba.data.reading.arrow_store import ArrowStore
from lightning_coba.data.reading.row_cache import RowTable
from lightning_coba.data.reading.task import SPLITS
from lightning_coba.data.tokens.splits import Splits


@dataclass(frozen=True, eq=False)
class InspectedTask:
    """One task as it was read.

    Attributes:
        name: of the task.
        prompt_rule: the column that holds the prompt, or its template.
        table: its rows as text.
        splits: its rows by split, before rows are dropped.
        own: the splits that were given; the others are carved from train.
        kept: split -> rows that training keeps, int64; without those whose prompt or length it refuses.
        tokens: its rows as tokens, cut where they are too long.
        prompt_tokens: of every row, before anything is cut, int64 ``[rows]``.
        completion_tokens: the same of what is learned, the end token counted.
    """

    name: str
    prompt_rule: str
    table: RowTable
    splits: Splits
    own: frozenset[str]
    kept: dict[str, np.ndarray]
    tokens: ArrowStore
    prompt_tokens: np.ndarray
    completion_tokens: np.ndarray

    def origin(self, row: int) -> str:
        """Return where a row came from."""
        return self.table.origin(int(row))

    @cached_property
    def prompts(self) -> pa.Array:
        """The prompts of all rows."""
        return _whole(self.table.store.table.column("prompt"))

    @cached_property
    def completions(self) -> pa.Array:
        """The completions of all rows; of conversations the last answers."""
        return _whole(self.table.store.table.column("completion"))

    @cached_property
    def completion_codes(self) -> np.ndarray:
        """A number for each row, equal for equal completions, int64 ``[rows]``."""
        return self.completions.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)

    @cached_property
    def is_chat(self) -> np.ndarray:
        """Whether the chat template renders a row, bool ``[rows]``."""
        return self.table.store.table.column("messages").is_valid().to_numpy()

    @cached_property
    def rows(self) -> np.ndarray:
        """All rows that are in some split, in their order."""
        return np.sort(np.concatenate([self.splits.rows[split] for split in SPLITS]))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())


def listed(names: Iterable[object], most: int = 4) -> str:
    """Return names with commas; of many, the first and how many more.

    Example:
        >>> listed("abcdef", most=2)
        'a, b and 4 more'
    """
    texts = [str(name) for name in names]
    return ", ".join(texts) if len(texts) <= most else f"{', '.join(texts[:most])} and {len(texts) - most} more"


def counted(number: int, noun: str = "row") -> str:
    """Return a number of things in words.

    Example:
        >>> counted(1), counted(2)
        ('1 row', '2 rows')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
