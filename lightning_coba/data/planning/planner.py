"""Which rows make up which optimizer step, and how a step is cut into micro-batches and ranks.

All of it is a pure function of (lengths, mixing, seed, epoch): a resumed run needs no sampler state. What a step holds
does not depend on how many micro-batches and ranks share it, so neither does the update.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_coba.data.planning.mixing import Mixing, epoch_rows, mixed_order
from lightning_coba.data.planning.packing import best_fit, even_tokens, steps_under_budget
from lightning_coba.errors import UserError
from lightning_coba.functional import seed_of

Batching = Literal["grouped", "packed", "random"]
BATCHINGS = get_args(Batching)

#: Rows of similar length are looked for within so many steps: enough to save padding, few enough to keep the mixture.
WINDOW_STEPS = 100
#: A packing window has at least so many rows, so that its half-empty last sequence does not count.
PACKING_ROWS = 4096


class EpochPlan(NamedTuple):
    """The steps of an epoch.

    Attributes:
        rows: (task, row) pairs, step after step, and longest first within a step that is not packed, int32 ``[L, 2]``.
        sequences: offsets into ``rows``, int64 ``[num_sequences + 1]``: what shares a packed sequence; one row each
            where nothing is packed.
        steps: offsets into ``sequences``, int64 ``[num_steps + 1]``.
    """

    rows: np.ndarray
    sequences: np.ndarray
    steps: np.ndarray


class Part(NamedTuple):
    """What one rank reads in one micro-batch.

    Attributes:
        rows: (task, row) pairs, int32 ``[n, 2]``.
        sequences: offsets into ``rows`` of the sequences, int64 ``[num_sequences + 1]``.
    """

    rows: np.ndarray
    sequences: np.ndarray


def check_turns(mixing: Mixing, batching: Batching, batch_tokens: int | None) -> None:
    """Refuse a rule by which tasks take turns where a step has no fixed number of rows.

    Raises:
        ValueError: The two do not go together.
    """
    if mixing.in_turns and (batching == "packed" or batch_tokens):
        raise UserError(
            "`mixing` must be proportional, temperature, uniform or weighted with batching='packed' and with "
            f"batch_tokens, whose steps have no fixed number of rows; got {mixing.rule!r}.",
            "Choose one of them, or batching='grouped' with batch_size.",
        )


class Planner:
    """Plan the optimizer steps of every epoch.

    Use it through `MultitaskDataModule`. A plan of a million rows takes about a second.

    Args:
        lengths: tokens of each row, a ``[rows]`` array for each of K tasks.
        mixing: how the tasks share an epoch.
        epoch: length of an epoch; see `MultitaskDataModule`. Where steps have no fixed number of rows, a number of them
            is about so many.
        step_size: of an optimizer step over all micro-batches and ranks: rows; with ``packed``, sequences; with
            ``batch_tokens``, the number of micro-batches (accumulated x ranks) that share it.
        batching: ``grouped``: steps of rows of similar length, in random order. ``packed``: rows end to end in
            sequences of ``sequence_tokens``, by best fit. ``random``: as mixed. Where tasks take turns, ``grouped``
            keeps each step's tasks, and looks for similar lengths within each task.
        sequence_tokens: capacity of a packed sequence.
        batch_tokens: token budget of a micro-batch, padding counted, instead of a fixed number of rows; a row that
            is longer is a micro-batch of its own.
        seed: another seed, another order.

    Attributes:
        num_rows: rows in every epoch.

    Raises:
        ValueError: The arguments do not go together.
    """

    def __init__(
        self,
        lengths: Sequence[np.ndarray],
        mixing: Mixing,
        epoch: str | int,
        step_size: int,
        batching: Batching = "grouped",
        sequence_tokens: int | None = None,
        batch_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        check_turns(mixing, batching, batch_tokens)
        self.mixing = mixing
        self.step_size = step_size
        self.batching = batching
        self.sequence_tokens = sequence_tokens
        self.batch_tokens = batch_tokens
        self.seed = seed
        self._sizes = [len(task) for task in lengths]
        self._first = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])
        self._lengths = np.concatenate([np.asarray(task, dtype=np.int32) for task in lengths])
        self._warn_of_long_rows()
        self.num_rows = epoch_rows(self._sizes, mixing, epoch, self._rows_per_step())
        self._num_steps: dict[int, int] = {}
        self._plan: tuple[int, EpochPlan] | None = None  # only the newest: a plan of a million rows has 24 MB

    def num_steps(self, epoch: int) -> int:
        """Return the optimizer steps of an epoch, alike on all ranks."""
        if self._counts_rows:
            return -(-self.num_rows // self.step_size)
        if epoch not in self._num_steps:
            self.plan(epoch)
        return self._num_steps[epoch]

    def plan(self, epoch: int) -> EpochPlan:
        """Return the steps of an epoch."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = epoch, self._planned(epoch)
            self._num_steps[epoch] = len(self._plan[1].steps) - 1
        return self._plan[1]

    def step(self, number: int) -> Part:
        """Return all that an optimizer step reads, counted from the start of the first epoch."""
        epoch = 0
        if self._counts_rows:
            epoch, number = divmod(number, self.num_steps(0))
        else:
            # How many steps an epoch has is known once it is planned.
            while number >= self.num_steps(epoch):
                number -= self.num_steps(epoch)
                epoch += 1
        plan = self.plan(epoch)
        return _slice(plan, plan.steps[number], plan.steps[number + 1])

    def parts(self, number: int, num_parts: int) -> list[Part]:
        """Cut a step into exactly so many parts: by number of sequences, or by tokens under a token budget.

        A step with fewer sequences than parts leaves some parts empty.
        """
        step = self.step(number)
        num_sequences = len(step.sequences) - 1
        if self.batch_tokens:
            cuts = even_tokens(self._tokens(step.rows).tolist(), num_parts)
        else:
            cuts = [part * num_sequences // num_parts for part in range(num_parts + 1)]
        return [_slice(step, begin, end) for begin, end in pairwise(cuts)]

    @property
    def _counts_rows(self) -> bool:
        """Whether a step has a fixed number of rows."""
        return self.batching != "packed" and not self.batch_tokens

    def _rows_per_step(self) -> int:
        if self._counts_rows:
            return self.step_size
        means = np.array([task.mean() for task in np.split(self._lengths, self._first[1:])])
        mean = float(self.mixing.shares(self._sizes) @ means)
        return max(1, round(self.step_size * (self.batch_tokens or self.sequence_tokens or 1) / mean))

    def _warn_of_long_rows(self) -> None:
        longest = int(self._lengths.max())
        if self.batch_tokens is not None and longest > self.batch_tokens:
            rank_zero_warn(
                f"The longest row has {longest} tokens, more than `batch_tokens`={self.batch_tokens}: "
                "a row beyond the budget is a micro-batch by itself. Raise batch_tokens, or lower max_length."
            )

    def _tokens(self, rows: np.ndarray) -> np.ndarray:
        return self._lengths[self._first[rows[:, 0]] + rows[:, 1]].astype(np.int64)

    def _planned(self, epoch: int) -> EpochPlan:
        rows = mixed_order(self._sizes, self.mixing, self.seed, epoch, self.num_rows)
        tokens = self._tokens(rows)
        if self.batching == "packed":
            return self._packed(rows, tokens, epoch)
        if self.batching == "grouped":
            window = self._window_rows(tokens)
            order = self._grouped(rows, tokens, window)
            rows, tokens = rows[order], tokens[order]
        else:
            window = self.num_rows
        if self.batch_tokens:
            steps = steps_under_budget(tokens, window, self.batch_tokens, self.step_size)
        else:
            steps = np.append(np.arange(0, self.num_rows, self.step_size), self.num_rows)
        if self.batching == "grouped":
            rows, tokens, steps = self._shuffled(rows, tokens, steps, window, epoch)
        step_of = np.repeat(np.arange(len(steps) - 1, dtype=np.int64), np.diff(steps))
        longest_first = np.argsort(step_of << 32 | (2**31 - tokens), kind="stable")
        return EpochPlan(rows[longest_first], np.arange(self.num_rows + 1), steps)

    def _grouped(self, rows: np.ndarray, tokens: np.ndarray, window: int) -> np.ndarray:
        """Return the order that puts rows of similar length together within each window, copies of a row apart.

        Where the tasks take turns, this holds within each task, and whose turn it is stays as it was.
        """
        windows = np.arange(len(rows), dtype=np.int64) // window
        copies = _copies(windows, self._first[rows[:, 0]] + rows[:, 1], len(self._lengths))
        # Longest first, then the second copies shortest first, and so on: neighbours stay alike.
        lengths = np.where(copies % 2, tokens, -tokens)
        if not self.mixing.in_turns:
            return np.lexsort((lengths, copies, windows)) if copies.any() else np.lexsort((lengths, windows))
        order = np.empty(len(rows), dtype=np.int64)
        order[np.lexsort((rows[:, 0], windows))] = np.lexsort((lengths, copies, rows[:, 0], windows))
        return order

    def _window_rows(self, tokens: np.ndarray) -> int:
        if not self.batch_tokens:
            return WINDOW_STEPS * self.step_size
        return WINDOW_STEPS * max(1, int(self.step_size * self.batch_tokens / tokens.mean()))

    def _shuffled(
        self, rows: np.ndarray, tokens: np.ndarray, steps: np.ndarray, window: int, epoch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Put the steps of each window into random order; a short last one stays last."""
        sizes = np.diff(steps)
        chance = self._generator("steps", epoch).random(len(sizes))
        chance[-1] = 1.0
        new_order = np.lexsort((chance, steps[:-1] // window))
        sizes = sizes[new_order]
        moved = np.repeat(steps[:-1][new_order] - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(rows))
        return rows[moved], tokens[moved], np.concatenate([[0], np.cumsum(sizes)])

    def _packed(self, rows: np.ndarray, tokens: np.ndarray, epoch: int) -> EpochPlan:
        assert self.sequence_tokens is not None
        per_step = self.step_size * self.sequence_tokens / tokens.mean()
        window = max(PACKING_ROWS, int(WINDOW_STEPS * per_step))
        generator = self._generator("packing", epoch)
        order: list[np.ndarray] = []
        sizes: list[int] = []
        for begin in range(0, len(rows), window):
            bins = best_fit(tokens[begin : begin + window].tolist(), self.sequence_tokens)
            for chosen in generator.permutation(len(bins)):
                order.append(np.array(bins[chosen]) + begin)
                sizes.append(len(bins[chosen]))
        steps = np.append(np.arange(0, len(sizes), self.step_size), len(sizes))
        return EpochPlan(rows[np.concatenate(order)], np.concatenate([[0], np.cumsum(sizes)]), steps)

    def _generator(self, purpose: str, epoch: int) -> np.random.Generator:
        return np.random.default_rng(seed_of(self.seed, purpose, epoch))


def _slice(whole: EpochPlan | Part, begin: int, end: int) -> Part:
    first, last = whole.sequences[begin], whole.sequences[end]
    return Part(whole.rows[first:last], whole.sequences[begin : end + 1] - first)


def _copies(windows: np.ndarray, rows: np.ndarray, num_rows: int) -> np.ndarray:
    """Return for each position how often its row came before in the same window, int64 ``[L]``."""
    key = windows * num_rows + rows
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    runs = np.diff(first, append=len(key))
    copies = np.empty(len(key), dtype=np.int64)
    copies[order] = np.arange(len(key)) - np.repeat(first, runs)
    return copies
