"""Endless, stateless row streams: which row comes i-th is a pure function of a key and i."""

import torch
from torch import Tensor

from lightning_coba.errors import UserError
from lightning_coba.functional.seeds import seed_of


def permutation_stream(num_rows: int, key: tuple[int | str, ...], start: int, count: int) -> Tensor:
    """Return rows ``start .. start + count - 1`` of the endless stream of permutations of ``num_rows`` rows.

    The stream shows every row once before it shows any row again. Nothing has to be remembered to continue it:
    cycle ``c`` is a permutation seeded by ``(key, c)`` alone. Costs O(count + num_rows).

    Args:
        num_rows: rows to draw from, at least 1.
        key: integers and strings that name the stream, such as ``(seed, "train", task)``.
        start: position of the first row in the stream, at least 0.
        count: number of rows to return, at least 0.

    Returns:
        int64 tensor of shape ``[count]`` with values in ``0 .. num_rows - 1``.

    Raises:
        ValueError: if ``num_rows`` < 1, ``start`` < 0 or ``count`` < 0.

    Example:
        >>> whole = permutation_stream(5, (0, "train"), start=0, count=12)
        >>> whole[7:].equal(permutation_stream(5, (0, "train"), start=7, count=5))
        True
    """
    if num_rows < 1 or start < 0 or count < 0:
        raise UserError(
            f"`permutation_stream` needs num_rows >= 1, start >= 0 and count >= 0; got num_rows={num_rows}, "
            f"start={start}, count={count}."
        )
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    first, last = start // num_rows, (start + count - 1) // num_rows
    stream = torch.cat([_permutation(num_rows, (*key, cycle)) for cycle in range(first, last + 1)])
    return stream[start - first * num_rows :][:count]


def _permutation(num_rows: int, key: tuple[int | str, ...]) -> Tensor:
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed_of(*key)))
