"""Training batches of any dataset from a named stream: a stopped run goes on with the batch it had come to."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
from torch.utils.data import default_collate

from lightning_coba.data.stream import Stream
from lightning_coba.lightning_internals import num_batches_done


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
        trainer: the Trainer that fits, ``self.trainer`` of a module or datamodule: it knows how many batches were
            trained on before, and which of the rows this process reads. Without it the loader counts for itself, and
            there is one process.

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
        trainer: L.Trainer | None = None,
    ) -> None:
        self.dataset = dataset
        self.stream = Stream(name, len(dataset), batch_size, seed)
        self.num_batches = self.stream.num_batches if num_batches is None else num_batches
        self.collate = collate
        self.trainer = trainer
        self._num_read = 0

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[Any]:
        """Yield an epoch of batches from the position on; a Trainer that resumes takes the rest of its epoch."""
        # Asked at the first batch of an epoch, when the progress of a resumed run is known. Lightning restores a
        # loader's own state only where nobody has asked for the number of steps before, as a scheduler does.
        trainer = self.trainer if self.trainer is not None and self.trainer.training else None
        start = self._num_read if trainer is None else num_batches_done(trainer)
        ranks = (trainer and trainer.distributed_sampler_kwargs) or {"rank": 0, "num_replicas": 1}
        for index in range(start, start + self.num_batches):
            rows = self.stream.batch(index)[ranks["rank"] :: ranks["num_replicas"]]
            self._num_read = index + 1  # before the batch is trained on: a checkpoint written after it holds it
            yield self.collate([self.dataset[int(row)] for row in rows])

    def state_dict(self) -> dict[str, int]:
        """Return the position, which Lightning saves with its loop."""
        return {"num_read": self._num_read}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on from a saved position."""
        self._num_read = state_dict["num_read"]
