"""Named streams of rows whose batches are numbered: nothing has to be remembered to go on with one."""

from dataclasses import dataclass

from torch import Tensor

from lightning_coba.errors import UserError
from lightning_coba.functional import permutation_stream


@dataclass(frozen=True)
class Stream:
    """Batch i of a named stream of rows is a pure function of (seed, name, i).

    The stream shows every row once before it shows any row again.

    Args:
        name: Name of the stream, such as ``"held_out/code"``; streams of two names are unrelated.
        num_rows: Number of rows to draw from, at least 1.
        batch_size: Rows per batch, at least 1; more than ``num_rows`` shows rows several times in one batch.
        seed: Seed of the order.

    Raises:
        ValueError: ``num_rows`` or ``batch_size`` is below 1.

    Example:
        >>> stream = Stream("held_out/code", num_rows=5, batch_size=2, seed=0)
        >>> stream.num_batches  # after which every row was seen
        3
        >>> stream.batch(1).equal(Stream("held_out/code", 5, 2, 0).batch(1))
        True
    """

    name: str
    num_rows: int
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("num_rows", "batch_size"):
            if getattr(self, field) < 1:
                raise UserError(
                    f"`Stream.{field}` must be at least 1; got {getattr(self, field)} for {self.name!r}.", "Give rows."
                )

    @property
    def num_batches(self) -> int:
        """Number of batches after which every row was seen."""
        return -(-self.num_rows // self.batch_size)

    def batch(self, index: int) -> Tensor:
        """Return the rows of batch ``index``, counted from 0: int64 ``[batch_size]`` in ``0 .. num_rows - 1``."""
        return permutation_stream(self.num_rows, (self.seed, self.name), index * self.batch_size, self.batch_size)
