"""The loader that reads a planned order: it keeps no place of its own, so it resumes wherever it is told."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_coba.data.collate import collate
from lightning_coba.data.planner import micro_batch, num_micro_batches
from lightning_coba.data.tokenization import TokenizedRows


def _from_the_start() -> tuple[int, int]:
    return 0, 0


@dataclass
class PlannedLoader:
    """Iterate over the micro-batches of one rank, in a planned order.

    It is not a ``torch.utils.data.DataLoader``, so Lightning leaves its sampling alone. The rows are in
    memory and a batch is collated in about a millisecond, so there are no workers.

    Args:
        order: epoch -> order of its rows, int64 ``[length, 2]``; pure.
        length: rows in every epoch.
        rows: the tokenised rows of each task.
        pad_token_id: what fills up short rows.
        batch_size: rows per rank and micro-batch.
        rank: this process.
        world_size: number of processes.
        position: () -> (epoch, micro-batch within it) to begin with; asked at the first ``next``, when the
            progress of a resumed run is known.
    """

    order: Callable[[int], Tensor]
    length: int
    rows: Sequence[TokenizedRows]
    pad_token_id: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    position: Callable[[], tuple[int, int]] = _from_the_start

    def __len__(self) -> int:
        """Return the micro-batches of an epoch, alike on all ranks."""
        return num_micro_batches(self.length, self.batch_size, self.world_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield an epoch's worth of batches from the position on, into the next epoch where it begins late.

        Lightning itself stops asking at the end of its epoch.
        """
        epoch, first = self.position()
        for current, begin, end in ((epoch, first, len(self)), (epoch + 1, 0, first)):
            if begin < end:
                order = self.order(current)
                for index in range(begin, end):
                    batch = micro_batch(order, index, self.batch_size, self.rank, self.world_size)
                    yield collate(batch.rows, self.rows, self.pad_token_id, batch.counted)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the place in the data is Lightning's own progress, and the order a function of it.

        The method exists so that Lightning knows that the loader resumes, and does not warn.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing; see `state_dict`."""
