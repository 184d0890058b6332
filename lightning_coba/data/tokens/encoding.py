"""From texts to token ids, of which each is read or learned: a batch of rows at a time."""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lightning_coba.data.reading.chat import ChatTemplate, Turns
from lightning_coba.errors import UserError

#: The columns of a batch that are read.
TEXT_COLUMNS = ("prompt", "completion", "messages", "part", "number")

TOKEN_SCHEMA = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),
        ("learned", pa.list_(pa.uint8())),  # bytes, not bits: they are read without a copy
        ("num_tokens", pa.int32()),
        ("num_learned", pa.int32()),
        ("num_lost", pa.int32()),  # tokens that were cut off on the left
        ("overlong", pa.bool_()),  # the completion does not fit: ids is empty, num_learned says what it takes
        ("last_only", pa.bool_()),  # see Turns
    ]
)


_Piece = tuple[list[int], bool]  # token ids, and whether they are learned


class _Frame(NamedTuple):
    """What stands around a text: tokens in front of every prompt, before an answer to nothing, and at the end."""

    bos: list[int]
    start: list[int]
    eos: int


class _Row(NamedTuple):
    """A row's token ids in pieces, none where its completion does not fit; the rest as in `TOKEN_SCHEMA`."""

    pieces: list[_Piece]
    last_only: bool
    num_lost: int = 0
    overlong: bool = False
    num_learned: int = 0  # where it does not fit


@dataclass
class Encoder:
    """Turn a table of rows into a table of tokens; a picklable function for ``datasets.Dataset.map``.

    A row of prompt and completion is [BOS] + prompt + completion + EOS; prompt and completion are tokenised apart,
    so that the boundary is exact. BOS is there if the tokenizer itself adds one. What would be learned from nothing
    (the completion after an empty prompt) gets one start token (the tokenizer's BOS or else its EOS). A conversation
    is what the chat template makes of it, with EOS at the end unless its last answer has one. A row that is too long
    loses tokens on the left, never BOS and never of its last answer.

    Args:
        tokenizer: a Hugging Face tokenizer with an end token.
        max_length: tokens a row may have, start and end token counted.
        origins: see `RowTable.origins`.

    Raises:
        ValueError: The tokenizer has no end token.
    """

    tokenizer: Any
    max_length: int
    origins: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.frame = frame_of(self.tokenizer)
        self.template = ChatTemplate(self.tokenizer)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Encode a batch.

        Args:
            batch: with `TEXT_COLUMNS`.

        Returns:
            As many rows, with `TOKEN_SCHEMA`.

        Raises:
            UserError: A conversation is not usable; the message names file and line.
        """
        columns = (batch.column(name).to_pylist() for name in TEXT_COLUMNS)
        turns = [self._turns(*row) for row in zip(*columns, strict=True)]
        texts = [piece for row in turns for piece, _ in row.pieces if isinstance(piece, str)]
        encoded = iter(self._ids(texts))
        chats = batch.column("messages").is_valid().to_pylist()
        return self._joined([self._row(row, chat, encoded) for row, chat in zip(turns, chats, strict=True)])

    def _turns(self, prompt: str, completion: str, messages: str | None, part: int, number: int) -> Turns:
        if messages is None:
            return Turns([(prompt, False), (completion, True)])
        try:
            return self.template.turns(json.loads(messages))
        except UserError as error:
            raise UserError(error.what, error.cure, where=f"{self.origins[part]}{number}") from error

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # verbose=False: our own limit is max_length, so the tokenizer's warning about its own would only confuse.
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]

    def _row(self, turns: Turns, chat: bool, encoded: Any) -> _Row:
        pieces = [(next(encoded) if isinstance(piece, str) else piece, learned) for piece, learned in turns.pieces]
        if chat:
            pieces = self._until_end(pieces)
        else:
            pieces.insert(0, (self.frame.bos, False))
        if not chat or self.frame.eos not in pieces[-1][0]:
            pieces.append(([self.frame.eos], True))
        if next(learned for ids, learned in pieces if ids):
            pieces.insert(0, (self.frame.start, False))
        first = next(ids for ids, _ in pieces if ids)
        num_kept = int(first[0] == self.tokenizer.bos_token_id) if chat else len(self.frame.bos)
        return self._fitted(pieces, num_kept, turns.last_only)

    def _fitted(self, pieces: list[_Piece], num_kept: int, last_only: bool) -> _Row:
        """Cut what is too long behind the first ``num_kept`` tokens."""
        surplus = sum(len(ids) for ids, _ in pieces) - self.max_length
        if surplus <= 0:
            return _Row(pieces, last_only)
        answer = sum(len(ids) for ids, _ in itertools.takewhile(lambda piece: piece[1], reversed(pieces)))
        if answer + 1 > self.max_length:
            return _Row([], last_only, overlong=True, num_learned=answer)
        left: list[_Piece] = []
        begin, end = num_kept, num_kept + surplus  # of what is cut, seen from the start of each piece
        for ids, learned in pieces:
            left.append((ids[: max(0, begin)] + ids[max(0, end) :], learned))
            begin, end = begin - len(ids), end - len(ids)
        return _Row(left, last_only, num_lost=surplus)

    def _until_end(self, pieces: list[_Piece]) -> list[_Piece]:
        """Learn an answer up to its end token: the line break that templates put behind it is never generated."""
        found: list[_Piece] = []
        for ids, learned in pieces:
            end = len(ids) - ids[::-1].index(self.frame.eos) if learned and self.frame.eos in ids else len(ids)
            found += [(ids[:end], learned), (ids[end:], False)]
        while not (found[-1][1] and found[-1][0]):
            found.pop()
        return [piece for piece in found if piece[0]]

    def _joined(self, rows: list[_Row]) -> pa.Table:
        pieces = [piece for row in rows for piece in row.pieces]
        lengths = np.array([len(ids) for ids, _ in pieces], dtype=np.int64)
        ids = np.fromiter(itertools.chain.from_iterable(ids for ids, _ in pieces), np.int32, lengths.sum())
        learned = np.repeat(np.array([learned for _, learned in pieces], dtype=np.uint8), lengths)
        num_pieces = np.cumsum([0, *(len(row.pieces) for row in rows)])
        offsets = np.concatenate([[0], np.cumsum(lengths)])[num_pieces]
        num_tokens = np.diff(offsets)
        learned[offsets[:-1][num_tokens > 0]] = 0  # a row that was cut within an answer: nothing predicts its first
        num_learned = np.diff(np.concatenate([[0], np.cumsum(learned, dtype=np.int64)])[offsets])
        columns = [
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids)),
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(learned)),
            pa.array(num_tokens, pa.int32()),
            pa.array(num_learned + [row.num_learned for row in rows], pa.int32()),
            pa.array([row.num_lost for row in rows], pa.int32()),
            *(pa.array([getattr(row, name) for row in rows], pa.bool_()) for name in ("overlong", "last_only")),
        ]
        return pa.table(columns, schema=TOKEN_SCHEMA)


def frame_of(tokenizer: Any) -> _Frame:
    """Return the tokens that a tokenizer puts around a text.

    Raises:
        ValueError: It has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "`tokenizer` must have an end token, which ends every completion; got a tokenizer without one.",
            "Set tokenizer.eos_token.",
        )
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
    start = tokenizer.eos_token_id if bos is None else bos
    return _Frame([bos] if adds_bos else [], [start], tokenizer.eos_token_id)
