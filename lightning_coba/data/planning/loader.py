"""Loaders that read a plan: they keep no place of their own, so they resume wherever they are told."""

from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_coba.data.planning.collate import collate
from lightning_coba.data.planning.planner import Part, Planner
from lightning_coba.data.tokens.tokenization import TokenizedRows
from lightning_coba.lightning_internals import batch_progress


def rank_of(trainer: L.Trainer | None) -> tuple[int, int]:
    """Return the number of this process and how many there are: the replicas of the data, where models are sharded."""
    ranks = None if trainer is None else trainer.distributed_sampler_kwargs  # None where there is one process
    return (ranks["rank"], ranks["num_replicas"]) if ranks else (0, 1)


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
        num_steps: optimizer steps of an epoch of Lightning's; ``None`` = those of the plan's first epoch.
        trainer: the Trainer that fits: it knows into how many micro-batches and ranks a planned step is cut, and where
            a resumed run goes on. Without it there is one process, and every pass begins at the start.
    """

    def __init__(
        self,
        planner: Planner,
        rows: Sequence[TokenizedRows],
        pad_token_id: int,
        num_steps: int | None = None,
        trainer: L.Trainer | None = None,
    ) -> None:
        self.planner = planner
        self.rows = rows
        self.pad_token_id = pad_token_id
        self.num_steps = planner.num_steps(0) if num_steps is None else num_steps
        self.trainer = trainer
        self.accumulate = 1 if trainer is None else trainer.accumulate_grad_batches
        self.rank, self.world_size = rank_of(trainer)
        self._completion_tokens = [task.completion_tokens for task in rows]
        self._cut: tuple[int, list[Part]] | None = None

    def __len__(self) -> int:
        """Return the micro-batches of an epoch, alike on all ranks."""
        return self.num_steps * self.accumulate

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the rest of an epoch of Lightning's, from its place on."""
        # Asked at the first batch, when the progress of a resumed run is known.
        done, first, end, accumulate = self._place()
        shift = done - first
        counts = None
        for batch in range(first, end):
            if counts is None or batch % accumulate == 0:
                window = batch - batch % accumulate
                # The last window of an epoch may be shorter.
                counts = self._counts(range(shift + window, shift + min(window + accumulate, end)))
            yield {**self._batch(shift + batch), "step_counts": counts.clone()}

    def _place(self) -> tuple[int, int, int, int]:
        """Return the micro-batches trained on before, which is next in this epoch, where it ends, and their windows."""
        trainer = self.trainer
        if trainer is None or not trainer.training:
            return 0, 0, len(self), self.accumulate
        progress = batch_progress(trainer)
        # The total over all epochs, not (epoch, batch): Lightning calls an epoch done when max_steps ends it
        # early, and would go on with the next epoch's rows from that batch on, losing the rest of this one's.
        # "completed", because a batch that an exception cut off counts as "ready" and has to come again.
        done, batch = progress.total.completed, progress.current.completed
        if getattr(trainer, "overfit_batches", 0):
            done = batch
        return done, batch, int(trainer.num_training_batches), trainer.accumulate_grad_batches

    def _parts(self, number: int) -> list[Part]:
        """Return what each rank reads in a micro-batch, counted from the start of the run."""
        step, micro_batch = divmod(number, self.accumulate)
        return self._parts_of_step(step)[micro_batch * self.world_size :][: self.world_size]

    def _parts_of_step(self, step: int) -> list[Part]:
        if self._cut is None or self._cut[0] != step:
            self._cut = step, self.planner.parts(step, self.accumulate * self.world_size)
        return self._cut[1]

    def _batch(self, number: int) -> dict[str, Tensor]:
        parts = self._parts(number)
        part, counted = parts[self.rank], True
        if not len(part.rows):
            # No rank may run out of batches before the others: a row of the step stands in and does not count.
            step = self._parts_of_step(number // self.accumulate)
            part, counted = Part(next(part.rows for part in step if len(part.rows))[-1:], np.array([0, 1])), False
        sequences = part.sequences if self.planner.batching == "packed" else None
        return collate(part.rows, self.rows, self.pad_token_id, counted, sequences)

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
        trainer: the Trainer that evaluates; without it there is one process.
    """

    def __init__(
        self,
        pairs: np.ndarray,
        rows: Sequence[TokenizedRows],
        pad_token_id: int,
        batch_size: int,
        trainer: L.Trainer | None = None,
    ) -> None:
        self.pairs = pairs
        self.rows = rows
        self.pad_token_id = pad_token_id
        self.batch_size = batch_size
        self.rank, self.world_size = rank_of(trainer)

    def __len__(self) -> int:
        """Return the number of batches, alike on all ranks."""
        return -(-len(self.pairs) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches; a rank for which no row is left in the last one reads a row that does not count."""
        for index in range(len(self)):
            chunk = self.pairs[index * self.batch_size * self.world_size :][: self.batch_size * self.world_size]
            mine = chunk[self.rank :: self.world_size]
            yield collate(mine if len(mine) else chunk[:1], self.rows, self.pad_token_id, counted=bool(len(mine)))
