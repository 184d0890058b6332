"""Prompts and completions as token ids, joined at an exact boundary and stored in one flat tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_coba.data.sources import Row

Overlong = Literal["error", "drop"]

_ROWS_PER_CALL = 4096  # bounds the lists of Python integers that a tokenizer returns


@dataclass(frozen=True)
class TokenizedRows:
    """Token ids of many rows, end to end.

    Attributes:
        ids: all token ids, int32 ``[total]``.
        offsets: row i is ``ids[offsets[i] : offsets[i + 1]]``, int64 ``[rows + 1]``.
        prompt_lengths: tokens before the first completion token (start token counted), int64 ``[rows]``,
            at least 1.
        kept: index of each row in what was tokenised, int64 ``[rows]``; overlong rows may have been dropped.
        num_cut_prompts: prompts that lost tokens on the left.
        num_dropped: rows whose completion did not fit.
    """

    ids: Tensor
    offsets: Tensor
    prompt_lengths: Tensor
    kept: Tensor
    num_cut_prompts: int = 0
    num_dropped: int = 0

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the ids of a row (int32 ``[tokens]``) and the length of its prompt."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.ids[self.offsets[index] : self.offsets[index + 1]], int(self.prompt_lengths[index])

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, int64 ``[rows]``."""
        return self.offsets.diff()

    @property
    def completion_tokens(self) -> Tensor:
        """Completion tokens of each row, the end token counted, int64 ``[rows]``."""
        return self.lengths - self.prompt_lengths


@dataclass(frozen=True)
class _Frame:
    """What stands around the text: tokens in front of every row, before an empty prompt, and at the end."""

    bos: list[int]
    start: list[int]
    eos: int


def tokenize(
    rows: Sequence[Row], tokenizer: Any, max_length: int, overlong: Overlong = "error", task: str = ""
) -> TokenizedRows:
    """Tokenise prompt and completion apart, and join them with the end token.

    A row is [BOS] + prompt + completion + EOS. BOS is there if the tokenizer itself adds one. An empty prompt
    without BOS gets one start token (the tokenizer's BOS or else its EOS), since the first completion token
    has to be predicted from something. A row that is too long loses tokens on the left of its prompt, never
    BOS.

    Args:
        rows: what to tokenise.
        tokenizer: a Hugging Face tokenizer with an end token.
        max_length: tokens a row may have, start and end token counted.
        overlong: what to do with a row whose completion does not fit even without its prompt: ``"error"``
            raises, ``"drop"`` drops it, with one warning.
        task: name for messages.

    Returns:
        The rows in order, without the dropped ones.

    Raises:
        ValueError: The tokenizer has no end token, a completion does not fit, or nothing is left.
    """
    frame = _frame(tokenizer)
    pieces: list[np.ndarray] = []
    prompt_lengths: list[int] = []
    kept: list[int] = []
    num_cut = 0
    for first in range(0, len(rows), _ROWS_PER_CALL):
        chunk = rows[first : first + _ROWS_PER_CALL]
        prompts = _ids(tokenizer, [row.prompt for row in chunk])
        completions = _ids(tokenizer, [row.completion for row in chunk])
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True), start=first):
            room = max_length - len(completion) - 1  # for what stands before the completion
            if room < 1:
                if overlong == "error":
                    raise ValueError(_overlong_message(rows[index], len(completion), max_length))
                continue
            room -= len(frame.bos)
            num_cut += len(prompt) > room
            head = frame.bos + prompt[max(0, len(prompt) - room) :] or frame.start
            pieces.append(np.array([*head, *completion, frame.eos], dtype=np.int32))
            prompt_lengths.append(len(head))
            kept.append(index)
    _check_dropped(len(rows), len(kept), max_length, task)
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    return TokenizedRows(
        ids=torch.from_numpy(np.concatenate(pieces)),
        offsets=torch.from_numpy(offsets),
        prompt_lengths=torch.tensor(prompt_lengths),
        kept=torch.tensor(kept),
        num_cut_prompts=num_cut,
        num_dropped=len(rows) - len(kept),
    )


def _frame(tokenizer: Any) -> _Frame:
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "`tokenizer` must have an end token, which ends every completion; got a tokenizer without one. "
            "Set tokenizer.eos_token."
        )
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("x")["input_ids"][:1] == [bos]
    start = tokenizer.eos_token_id if bos is None else bos
    return _Frame([bos] if adds_bos else [], [start], tokenizer.eos_token_id)


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    # verbose=False: our own limit is max_length, so the tokenizer's warning about its own would only confuse.
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return encoded["input_ids"]


def _overlong_message(row: Row, completion_tokens: int, max_length: int) -> str:
    return (
        f"{row.origin}: the completion has {completion_tokens} tokens; with start and end token it needs "
        f"{completion_tokens + 2}, more than MultitaskDataModule.max_length={max_length}. "
        'Raise max_length, shorten the row, or set overlong="drop".'
    )


def _check_dropped(num_rows: int, num_kept: int, max_length: int, task: str) -> None:
    if num_kept == num_rows:
        return
    dropped = (
        f"Task {task!r}: {num_rows - num_kept} of {num_rows} rows were dropped, because their completion "
        f"does not fit into MultitaskDataModule.max_length={max_length}."
    )
    if num_kept == 0:
        raise ValueError(f"{dropped} None is left. Raise max_length.")
    rank_zero_warn(dropped)
