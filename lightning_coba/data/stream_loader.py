"""Training batches of any dataset from a named stream: a stopped run goes on with the batch it had come to."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import default_collate

from lightning_coba.data.stream import Stream


class StreamLoader:
    """Iterate over batches of a map-style dataset, in an order that follows from the seed and the name alone.

    Use it as the train loader of a system with its own data. A plain ``DataLoader`` starts an epoch again where a
    checkpoint was written in the middle of it; this loader's position is in the checkpoint, and the next epoch's order
    is that of the run that was never stopped. Batches are collated in this process.

    Args:
        dataset: anything with ``len`` and an integer index.
        batch_size: rows per batch, over all ranks.
        seed: seed of the order.
        name: name of the stream; two streams of one seed are unrelated if their names differ.
        num_batches: batches per epoch; default: as many as show every row once, the last one filled up.
        collate: function from a list of rows to a batch.
        rank: number of this process, which reads every ``world_size``-th row of a batch.
        world_size: number of processes that read different rows.

    Example:
        >>> loader = StreamLoader(range(6), batch_size=2)
        >>> first = [batch.tolist() for batch in loader]
        >>> sorted(row for batch in first for row in batch)
        [0, 1, 2, 3, 4, 5]
        >>> again = StreamLoader(range(6), batch_size=2)
        >>> again.load_state_dict({"num_read": 2})
        >>> next(iter(again)).tolist() == first[2]
        True
    """

    def __init__(
        self,
        dataset: Sequence[Any],
        batch_size: int,
        seed: int = 0,
        name: str = "train",
        num_batches: int | None = None,
        collate: Callable[[list[Any]], Any] = default_collate,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.dataset = dataset
        self.stream = Stream(name, len(dataset), batch_size, seed)
        self.num_batches = self.stream.num_batches if num_batches is None else num_batches
        self.collate = collate
        self.rank = rank
        self.world_size = world_size
        self._num_read = 0

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[Any]:
        """Yield an epoch of batches from the position on; a Trainer that resumes takes the rest of its epoch."""
        for _ in range(self.num_batches):
            rows = self.stream.batch(self._num_read)[self.rank :: self.world_size]
            self._num_read += 1  # before the batch is trained on: a checkpoint written after it holds it
            yield self.collate([self.dataset[int(row)] for row in rows])

    def state_dict(self) -> dict[str, int]:
        """Return the position, which Lightning saves with its loop."""
        return {"num_read": self._num_read}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on from a saved position."""
        self._num_read = state_dict["num_read"]
