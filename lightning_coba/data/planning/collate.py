"""Rows of any tasks as one batch, with the completion tokens listed by position."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_coba.data.tokens.tokenization import TokenizedRows


def collate(
    rows: Tensor | np.ndarray | Sequence[tuple[int, int]],
    tasks: Sequence[TokenizedRows],
    pad_token_id: int,
    counted: bool = True,
    sequences: np.ndarray | None = None,
) -> dict[str, Tensor]:
    """Make a batch.

    Which tokens count is stored with the rows and never follows from the padding token, which is often the end token.

    Args:
        rows: (task, row) pairs, ``[R, 2]``.
        tasks: the tokenised rows of each task, ``[K]``.
        pad_token_id: what fills up ``input_ids`` on the right.
        counted: False leaves out all targets (n = 0): a batch that only keeps a rank in step.
        sequences: offsets into ``rows``, ``[B + 1]``: rows that lie end to end in one sequence. ``None`` = one row a
            sequence, with an attention mask.

    Returns:
        All int64; B sequences of T tokens, n = completion tokens of the batch, end tokens counted.

        - ``input_ids`` ``[B, T]``.
        - ``attention_mask`` ``[B, T]``, 1 on real tokens; or, of packed sequences, ``position_ids`` ``[B, T]``, which
          start at 0 in every row (and in the padding): the model keeps the rows apart by them.
        - ``token_index`` ``[n]``, index into the flattened ``B * T`` positions of the one *before* each
          completion token: the position whose hidden state predicts it.
        - ``targets`` ``[n]``, the completion tokens.
        - ``token_tasks`` ``[n]``, the task of each.
        - ``row_tasks`` ``[R]`` and ``row_ids`` ``[R]``, the pairs that were given.
    """
    pairs = np.asarray(rows, dtype=np.int64).reshape(-1, 2)
    offsets = np.arange(len(pairs) + 1) if sequences is None else np.asarray(sequences)
    turns = pairs[:, 0].tolist()
    taken = {task: iter(tasks[task].take(pairs[pairs[:, 0] == task, 1])) for task in set(turns)}  # one access per task
    encoded = [next(taken[task]) for task in turns]
    lengths = np.array([len(ids) for ids, _ in encoded])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    totals = np.concatenate([[0], ends])[offsets]
    used = np.diff(totals)[:, None]  # tokens of each sequence
    num_sequences, width = len(used), int(used.max())
    # Where each row begins among the B * T positions: its own offset, plus the padding of the sequences before.
    sequence_of = np.repeat(np.arange(num_sequences), np.diff(offsets))
    place = np.repeat(sequence_of * width - totals[sequence_of], lengths) + np.arange(ends[-1])
    ids = np.full(num_sequences * width, pad_token_id, dtype=np.int64)
    ids[place] = np.concatenate([ids for ids, _ in encoded])
    learned = np.concatenate([learned for _, learned in encoded]) & counted
    index = place[learned]
    batch = {"input_ids": ids.reshape(num_sequences, width)}
    if sequences is None:
        batch["attention_mask"] = (np.arange(width) < used).astype(np.int64)
    else:
        positions = np.arange(width) - used  # right in the padding
        positions.flat[place] = np.arange(ends[-1]) - np.repeat(starts, lengths)
        batch["position_ids"] = positions
    batch |= {
        "token_index": index - 1,  # a row begins with at least one prompt token, so this stays in the row
        "targets": ids[index],
        "token_tasks": np.repeat(pairs[:, 0], lengths)[learned],
        "row_tasks": pairs[:, 0].copy(),
        "row_ids": pairs[:, 1].copy(),
    }
    return {key: torch.from_numpy(value) for key, value in batch.items()}
