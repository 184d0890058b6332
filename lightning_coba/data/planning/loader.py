"""Loaders that read a plan: they keep no place of their own, so they resume wherever they are told."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_coba.data.planning.collate import collate
from lightning_coba.data.planning.planner import Part, Planner
from lightning_coba.data.tokens.tokenization import TokenizedRows


class Place(NamedTuple):
    """Where an epoch of Lightning's begins or goes on.

    Attributes:
        done: micro-batches that were trained before, over all epochs.
        batch: number of the next one within this epoch.
        num_batches: at which the epoch ends.
        accumulate: micro-batches of an optimizer step; the last window of an epoch may be shorter.
    """

    done: int
    batch: int
    num_batches: int
    accumulate: int


class PlannedLoader:
    """Iterate over one rank's micro-batches of the planned optimizer steps.

    It is not a ``torch.utils.data.DataLoader``, so Lightning leaves its sampling alone. The rows are in a memory map
    and a batch is collated in a few milliseconds, so there are no workers.

    Besides what `collate` returns, a batch holds ``step_counts``, int64 ``[K]``: the completion tokens of each task in
    all micro-batches, of all ranks, that share its optimizer step. With it ``TaskWeights.combine`` is exact.

    Args:
        planner: what each optimizer step reads.
        rows: the tokenised rows of each task.
        pad_token_id: what fills up short rows.
        accumulate: micro-batches that a planned step is cut into, on each rank.
        num_steps: optimizer steps of an epoch of Lightning's; ``None`` = those of the plan's first epoch.
        rank: this process.
        world_size: number of processes.
        place: where to begin; asked at the first ``next``, when the progress of a resumed run is known. ``None``
            begins at the start.
    """

    def __init__(
        self,
        planner: Planner,
        rows: Sequence[TokenizedRows],
        pad_token_id: int,
        accumulate: int = 1,
        num_steps: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        place: Callable[[], Place | None] | None = None,
    ) -> None:
        self.planner = planner
        self.rows = rows
        self.pad_token_id = pad_token_id
        self.accumulate = accumulate
        self.num_steps = planner.num_steps(0) if num_steps is None else num_steps
        self.rank = rank
        self.world_size = world_size
        self._place = place
        self._completion_tokens = [task.completion_tokens for task in rows]
        self._cut: tuple[int, list[Part]] | None = None

    def __len__(self) -> int:
        """Return the micro-batches of an epoch, alike on all ranks."""
        return self.num_steps * self.accumulate

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the rest of an epoch of Lightning's, from its place on."""
        place = self._place() if self._place else None
        place = place or Place(0, 0, len(self), self.accumulate)
        shift = place.done - place.batch
        counts = None
        for batch in range(place.batch, place.num_batches):
            if counts is None or batch % place.accumulate == 0:
                window = batch - batch % place.accumulate
                end = min(window + place.accumulate, place.num_batches)
                counts = self._counts(range(shift + window, shift + end))
            yield {**self._batch(shift + batch), "step_counts": counts.clone()}

    def _parts(self, number: int) -> list[Part]:
        """Return what each rank reads in a micro-batch, counted from the start of the run."""
        step, micro_batch = divmod(number, self.accumulate)
        if self._cut is None or self._cut[0] != step:
            self._cut = step, self.planner.parts(step, self.accumulate * self.world_size)
        return self._cut[1][micro_batch * self.world_size :][: self.world_size]

    def _batch(self, number: int) -> dict[str, Tensor]:
        parts = self._parts(number)
        part, counted = parts[self.rank], True
        if not len(part.rows):
            # No rank may run out of batches before the others: a row of the step stands in and does not count.
            part, counted = next(part for part in self._parts_of_step(number) if len(part.rows)), False
            part = Part(part.rows[-1:], np.array([0, 1]))
        sequences = part.sequences if self.planner.batching == "packed" else None
        return collate(part.rows, self.rows, self.pad_token_id, counted, sequences)

    def _parts_of_step(self, number: int) -> list[Part]:
        self._parts(number)
        assert self._cut is not None
        return self._cut[1]

    def _counts(self, numbers: range) -> Tensor:
        """Return the completion tokens of each task in some micro-batches, over all ranks."""
        counts = np.zeros(len(self.rows), dtype=np.int64)
        for number in numbers:
            for part in self._parts(number):
                for task, row in part.rows.tolist():
                    counts[task] += self._completion_tokens[task][row]
        return torch.from_numpy(counts)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the place in the data is Lightning's own progress, and the order a function of it.

        The method exists so that Lightning knows that the loader resumes, and does not warn.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing; see `state_dict`."""


class EvaluationLoader:
    """Iterate over one rank's batches of fixed rows.

    Args:
        pairs: (task, row) pairs in order, ``[rows, 2]``.
        rows: the tokenised rows of each task.
        pad_token_id: what fills up short rows.
        batch_size: rows per rank and batch.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        pairs: np.ndarray,
        rows: Sequence[TokenizedRows],
        pad_token_id: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.pairs = pairs
        self.rows = rows
        self.pad_token_id = pad_token_id
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Return the number of batches, alike on all ranks."""
        return -(-len(self.pairs) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches; a rank for which no row is left in the last one reads a row that does not count."""
        for index in range(len(self)):
            chunk = self.pairs[index * self.batch_size * self.world_size :][: self.batch_size * self.world_size]
            mine = chunk[self.rank :: self.world_size]
            yield collate(mine if len(mine) else chunk[:1], self.rows, self.pad_token_id, counted=bool(len(mine)))
