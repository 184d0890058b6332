"""From a key to a seed, in one place: what is drawn is a pure function of the integers and strings that name it."""

from hashlib import blake2b

import torch


def seed_of(*key: int | str) -> int:
    """Return a seed that is the same in every process and on every machine, and unrelated for another key.

    Args:
        *key: Integers and strings that name what is drawn, such as ``seed, "train", task``.

    Returns:
        Integer in ``0 .. 2**64 - 1``, which the generators of torch and NumPy take.

    Example:
        >>> seed_of(0, "train") == seed_of(0, "train"), seed_of(0, "train") == seed_of(0, "test")
        (True, False)
    """
    # Python's own hash() of a string differs from process to process.
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def set_seed(seed: int, device: torch.device | str = "cpu") -> None:
    """Seed the global generator of the CPU and that of ``device``.

    ``torch.manual_seed`` looks at every kind of accelerator, which takes milliseconds where there is none.
    """
    torch.default_generator.manual_seed(seed)
    kind = str(device).partition(":")[0]  # before each batch, where making a device of it would cost more than the rest
    if kind not in ("cpu", "meta"):
        getattr(torch, kind).manual_seed(seed)
