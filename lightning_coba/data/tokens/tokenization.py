"""The tokenised rows of one split of a task: a view of a table that may lie on disk."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_coba.data.reading.arrow_store import ArrowStore
from lightning_coba.errors import UserError

Overlong = Literal["error", "drop"]


@dataclass(frozen=True, eq=False)
class TokenizedRows:
    """Rows of a table of tokens, which are read when they are asked for.

    It may be handed to other processes: files travel as their names.

    Attributes:
        store: the tokens of all splits of the task; see `Encoder`.
        rows: which rows of it these are, int64 ``[rows]``.
        lengths: tokens of each row, int32 ``[rows]``.
        completion_tokens: learned tokens of each row, the end token counted, int32 ``[rows]``.
        num_cut_prompts: rows that lost tokens on the left.
        num_dropped: rows that were left out, because their completion did not fit.
        longest: tokens of the longest row before anything was cut.
    """

    store: ArrowStore
    rows: np.ndarray
    lengths: np.ndarray
    completion_tokens: np.ndarray
    num_cut_prompts: int = 0
    num_dropped: int = 0
    longest: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Iterable[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (ids, learned) of some rows: int32 ``[tokens]`` and bool ``[tokens]``, read-only.

        A row's first token is never learned: nothing stands before it to predict it from.

        Raises:
            IndexError: There is no such row.
        """
        ids, learned = (self.store.table.column(name) for name in ("ids", "learned"))
        rows = self.rows[np.fromiter(indices, np.int64)].tolist()
        return [(ids[row].values.to_numpy(), learned[row].values.to_numpy().view(bool)) for row in rows]


def select_rows(
    store: ArrowStore,
    rows: np.ndarray,
    max_length: int,
    overlong: Overlong = "error",
    split: str = "",
    origin: Callable[[int], str] = str,
) -> TokenizedRows:
    """Return some rows of a table of tokens, those left out whose completion does not fit.

    Args:
        store: tokens; see `Encoder`.
        rows: which rows, int64 ``[rows]``.
        max_length: what they were encoded for.
        overlong: what to do with a row whose completion does not fit even without its prompt: ``"error"`` raises,
            ``"drop"`` drops it, with one warning.
        split: ``task/split``, for messages.
        origin: row -> where it came from, for messages.

    Raises:
        ValueError: A completion does not fit, or nothing is left.
    """
    too_long = store.numbers("overlong")[rows]
    num_learned = store.numbers("num_learned")[rows]
    if too_long.any():
        first = int(np.argmax(too_long))
        if overlong == "error":
            tokens = int(num_learned[first]) - 1
            raise UserError(
                f"the completion has {tokens} tokens; with start and end token it needs {tokens + 2}, more than "
                f"MultitaskDataModule.max_length={max_length}.",
                'Raise max_length, shorten the row, or set overlong="drop".',
                where=origin(int(rows[first])),
            )
        dropped = (
            f"Task {split!r}: {int(too_long.sum())} of {len(rows)} rows were dropped, because their completion "
            f"does not fit into MultitaskDataModule.max_length={max_length}."
        )
        if too_long.all():
            raise UserError(f"{dropped} None is left.", "Raise max_length.")
        rank_zero_warn(dropped)
    kept = rows[~too_long]
    num_tokens, num_lost = store.numbers("num_tokens")[kept], store.numbers("num_lost")[kept]
    return TokenizedRows(
        store,
        kept,
        num_tokens,
        num_learned[~too_long],
        int(np.count_nonzero(num_lost)),
        len(rows) - len(kept),
        int((num_tokens + num_lost).max(initial=0)),
    )
