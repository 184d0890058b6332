"""How rows fill sequences of a fixed capacity, and micro-batches under a token budget."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from lightning_coba.errors import UserError

_BITS = 32


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack items into as few bins as best-fit decreasing finds: longest first, each where it leaves the least room.

    Args:
        lengths: of the items, each in ``1 .. capacity``.
        capacity: of a bin.

    Returns:
        Bins as lists of item indices. Costs O(n log n) comparisons.

    Raises:
        ValueError: An item is longer than a bin.

    Example:
        >>> best_fit([3, 6, 4, 2], capacity=7)
        [[1], [2, 0], [3]]
    """
    if max(lengths, default=0) > capacity:
        raise UserError(f"`best_fit.capacity` must hold the longest item, {max(lengths)}; got {capacity}.", "Raise it.")
    bins: list[list[int]] = []
    rooms: list[int] = []  # sorted; room and bin in one number, which compares faster than a pair; full bins leave
    for item in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[item]
        place = bisect_left(rooms, length << _BITS)
        if place < len(rooms):
            room, chosen = divmod(rooms.pop(place), 1 << _BITS)
            bins[chosen].append(item)
        else:
            room, chosen = capacity, len(bins)
            bins.append([item])
        if room > length:
            insort(rooms, (room - length) << _BITS | chosen)
    return bins


def steps_under_budget(tokens: np.ndarray, window: int, budget: int, num_parts: int) -> np.ndarray:
    """Fill micro-batches of a padded size up to ``budget`` row by row, ``num_parts`` a step; offsets of the steps.

    No step reaches over the end of a window.
    """
    lengths = tokens.tolist()
    steps = [0]
    for start in range(0, len(lengths), window):
        end, first, num_filled = min(start + window, len(lengths)), start, 0
        while first < end:
            widest, last = lengths[first], first + 1
            while last < end and (last + 1 - first) * max(widest, lengths[last]) <= budget:
                widest = max(widest, lengths[last])
                last += 1
            num_filled += 1
            first = last
            if num_filled % num_parts == 0 or first == end:
                steps.append(first)
    return np.array(steps)


def even_tokens(lengths: list[int], num_parts: int) -> list[int]:
    """Cut rows, longest first, into parts whose largest padded size is as small as can be; offsets of the parts."""
    budgets = range(max(lengths), max(lengths) * len(lengths) + 1)
    enough = bisect_left(budgets, True, key=lambda budget: len(_filled(lengths, budget)) <= num_parts + 1)
    cuts = _filled(lengths, budgets[enough])
    return cuts + [len(lengths)] * (num_parts + 1 - len(cuts))


def _filled(lengths: list[int], budget: int) -> list[int]:
    cuts = [0]
    while cuts[-1] < len(lengths):
        cuts.append(min(len(lengths), cuts[-1] + max(1, budget // lengths[cuts[-1]])))
    return cuts
