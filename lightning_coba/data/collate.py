"""Rows of any tasks as one right-padded batch, with the completion tokens listed by position."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_coba.data.tokenization import TokenizedRows


def collate(
    rows: Tensor | Sequence[tuple[int, int]],
    tasks: Sequence[TokenizedRows],
    pad_token_id: int,
    counted: bool = True,
) -> dict[str, Tensor]:
    """Make a batch.

    Which tokens count follows from lengths alone, never from the padding token, which is often the end token.

    Args:
        rows: (task, row) pairs, ``[B, 2]``.
        tasks: the tokenised rows of each task, ``[K]``.
        pad_token_id: what fills up ``input_ids`` on the right.
        counted: False leaves out all targets (n = 0): a batch that only keeps a rank in step.

    Returns:
        All int64; T = longest row, n = completion tokens of the batch, end tokens counted.

        - ``input_ids`` ``[B, T]``.
        - ``attention_mask`` ``[B, T]``, 1 on real tokens.
        - ``token_index`` ``[n]``, index into the flattened ``B * T`` positions of the one *before* each
          completion token: the position whose hidden state predicts it.
        - ``targets`` ``[n]``, the completion tokens.
        - ``token_tasks`` ``[n]``, the task of each.
        - ``row_tasks`` ``[B]`` and ``row_ids`` ``[B]``, the pairs that were given.
    """
    pairs = torch.as_tensor(rows, dtype=torch.int64).reshape(-1, 2)
    encoded = [tasks[task][row] for task, row in pairs.tolist()]
    input_ids = pad_sequence([ids.long() for ids, _ in encoded], batch_first=True, padding_value=pad_token_id)
    lengths = torch.tensor([len(ids) for ids, _ in encoded])
    prompt_lengths = torch.tensor([prompt_length for _, prompt_length in encoded])
    positions = torch.arange(input_ids.shape[1])
    attended = positions < lengths[:, None]
    learned = attended & (positions >= prompt_lengths[:, None]) & counted
    index = learned.flatten().nonzero().squeeze(1)
    row_tasks, row_ids = pairs.unbind(1)
    return {
        "input_ids": input_ids,
        "attention_mask": attended.long(),
        "token_index": index - 1,  # a row begins with at least one prompt token, so this stays in the row
        "targets": input_ids.flatten()[index],
        "token_tasks": row_tasks[index // input_ids.shape[1]],
        "row_tasks": row_tasks.clone(),
        "row_ids": row_ids.clone(),
    }
