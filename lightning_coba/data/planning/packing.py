"""Best-fit packing: short rows end to end in sequences of a fixed capacity."""

from bisect import bisect_left, insort
from collections.abc import Sequence

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
        raise ValueError(f"`best_fit.capacity` must hold the longest item, {max(lengths)}; got {capacity}. Raise it.")
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
