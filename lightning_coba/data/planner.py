"""Which row comes when: pure functions of (seed, epoch), so that a resumed run needs no sampler state.

A mixing rule says two things: how many rows of each task the earlier epochs took, and in which order the
tasks take turns within this one. Which rows those are follows from the task's own endless stream of
permutations. To add a rule, write a function that returns a `_Plan` and name it in `_RULES`.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_coba.functional import permutation_stream

_GOLDEN_RATIO = (5**0.5 - 1) / 2


class _Plan(NamedTuple):
    before: np.ndarray  # [K] rows that the earlier epochs took of each task
    turns: np.ndarray  # [L] task of each position


def epoch_length_of(
    sizes: Sequence[int], mixing: str, rows_per_step: int | None = None, epoch_length: int | None = None
) -> int:
    """Return the number of rows in an epoch.

    That is ``epoch_length``, or else the sum of the sizes. ``stratified`` rounds it up to whole optimizer
    steps, so that the last step of an epoch holds every task too.

    Args:
        sizes: rows of each task, ``[K]``.
        mixing: name of the mixing rule.
        rows_per_step: rows of an optimizer step over all micro-batches and ranks; ``stratified`` needs it.
        epoch_length: rows, at least 1.

    Raises:
        ValueError: A value is outside its domain; with ``stratified``, a step has fewer rows than there are
            tasks.
    """
    if mixing not in MIXING_RULES:
        raise ValueError(f"`mixing` must be one of {', '.join(MIXING_RULES)}; got {mixing!r}. Choose one.")
    if not sizes or min(sizes) < 1:
        raise ValueError(f"`sizes` must be at least one row per task; got {list(sizes)}. Leave empty tasks out.")
    if epoch_length is not None and epoch_length < 1:
        raise ValueError(f"`epoch_length` must be at least 1 row; got {epoch_length}. Use None for all rows.")
    length = epoch_length or sum(sizes)
    if mixing != "stratified":
        return length
    if rows_per_step is None or rows_per_step < len(sizes):
        raise ValueError(
            f"With mixing='stratified' a step must hold a row of each of {len(sizes)} tasks; it "
            f"has {rows_per_step}. Raise MultitaskDataModule.batch_size or Trainer.accumulate_grad_batches."
        )
    return -(-length // rows_per_step) * rows_per_step


def epoch_order(
    sizes: Sequence[int],
    mixing: str,
    seed: int,
    epoch: int,
    rows_per_step: int | None = None,
    epoch_length: int | None = None,
) -> Tensor:
    """Return the order of an epoch, a pure function of the arguments.

    - ``proportional``: every row once an epoch, each task's rows laid out evenly: of its n rows, the j-th
      sits at ``(j + u) / n`` of the epoch, with a random offset u per task and epoch.
    - ``uniform``: the same number of rows of every task (up to a remainder that rotates), laid out evenly;
      small tasks repeat, large ones take several epochs.
    - ``stratified``: every optimizer step holds floor(rows_per_step / K) rows of every task, and the
      remainder rotates over the tasks.

    Under every rule a task shows each of its rows once before it shows any again, across epochs too.

    Args:
        sizes: rows of each task, ``[K]``.
        mixing: the rule.
        seed: another seed, another order.
        epoch: from 0.
        rows_per_step: rows of an optimizer step over all micro-batches and ranks; for ``stratified``.
        epoch_length: rows in an epoch; ``None`` is the sum of the sizes. See `epoch_length_of`.

    Returns:
        int64 ``[L, 2]``: (task, row within the task) of each position.

    Raises:
        ValueError: As `epoch_length_of`.

    Example:
        >>> epoch_order([4, 2], "proportional", seed=0, epoch=0)[:, 0].bincount()
        tensor([4, 2])
    """
    length = epoch_length_of(sizes, mixing, rows_per_step, epoch_length)
    plan = _RULES[mixing](sizes, seed, epoch, length)
    rows = np.empty(length, dtype=np.int64)
    for task, size in enumerate(sizes):
        positions = np.flatnonzero(plan.turns == task)
        start = int(plan.before[task])
        rows[positions] = permutation_stream(size, (seed, "train", task), start, len(positions)).numpy()
    return torch.from_numpy(np.stack([plan.turns, rows], axis=1))


def _proportional(sizes: Sequence[int], seed: int, epoch: int, length: int) -> _Plan:
    return _evenly(sizes, seed, epoch, length)


def _uniform(sizes: Sequence[int], seed: int, epoch: int, length: int) -> _Plan:
    return _evenly([1] * len(sizes), seed, epoch, length)


def _stratified(sizes: Sequence[int], seed: int, epoch: int, length: int) -> _Plan:
    # Taking turns puts every task into every window of K or more rows, wherever a step begins.
    tasks = np.arange(len(sizes))
    start = epoch * length
    before = (start + len(sizes) - 1 - tasks) // len(sizes)
    return _Plan(before, np.arange(start, start + length) % len(sizes))


_RULES: dict[str, Callable[[Sequence[int], int, int, int], _Plan]] = {
    "proportional": _proportional,
    "uniform": _uniform,
    "stratified": _stratified,
}
MIXING_RULES = tuple(_RULES)


def _evenly(weights: Sequence[int], seed: int, epoch: int, length: int) -> _Plan:
    """Give each task its share of the positions and lay them out evenly."""
    counts = _counts(weights, length, epoch + 1)
    now = counts[-1]
    key = blake2b(repr((seed, "layout", epoch)).encode(), digest_size=8).digest()
    offsets = np.random.default_rng(int.from_bytes(key)).random(len(weights))
    tasks = np.repeat(np.arange(len(weights)), now)
    within = np.arange(length) - np.repeat(np.cumsum(now) - now, now)
    places = (within + offsets[tasks]) / now[tasks]
    return _Plan(counts[:-1].sum(axis=0), tasks[np.argsort(places, kind="stable")])


def _counts(weights: Sequence[int], length: int, num_epochs: int) -> np.ndarray:
    """Share ``length`` rows by weight, in each of the first epochs: int64 ``[num_epochs, K]``.

    The weights are integers, so that shares that come out even are exact.
    """
    total = sum(weights)
    base = np.array([length * weight // total for weight in weights])
    fractions = np.array([length * weight % total / total for weight in weights])
    remainder = length - int(base.sum())
    edges = np.concatenate([[0.0], np.cumsum(fractions)])
    edges = np.minimum(edges, remainder)
    edges[-1] = remainder
    # Who gets the remainder: a comb of step 1 over the fractions, moved on by the golden ratio every epoch,
    # which spreads it so evenly that in the long run each task gets its exact share.
    shifts = (0.5 + np.arange(num_epochs) * _GOLDEN_RATIO) % 1
    extra = np.diff(np.floor(edges + shifts[:, None]), axis=1).astype(np.int64)
    return base + extra


class MicroBatch(NamedTuple):
    """What one rank reads in one micro-batch.

    Attributes:
        rows: (task, row) pairs, int64 ``[B, 2]``, B >= 1.
        counted: False for a stand-in whose tokens do not count, so that no rank runs out of batches first.
    """

    rows: Tensor
    counted: bool


def num_micro_batches(length: int, batch_size: int, world_size: int = 1) -> int:
    """Return how many micro-batches cover ``length`` rows; the same for every rank."""
    return -(-length // (batch_size * world_size))


def micro_batch(order: Tensor, index: int, batch_size: int, rank: int = 0, world_size: int = 1) -> MicroBatch:
    """Return a rank's part of a micro-batch.

    Micro-batch i is ``order[i * B * W : (i + 1) * B * W]``, and rank r reads every W-th row of it from r on.
    So the rows of a step depend on B * W alone: twice the batch on half the ranks trains the same.

    Args:
        order: an epoch's order, int64 ``[L, 2]``.
        index: which micro-batch of the epoch, below `num_micro_batches`.
        batch_size: rows per rank, B.
        rank: r.
        world_size: number of ranks, W.

    Returns:
        The rank's rows. A rank for which none is left reads the chunk's first row, not counted.
    """
    rows_per_chunk = batch_size * world_size
    chunk = order[index * rows_per_chunk : (index + 1) * rows_per_chunk]
    rows = chunk[rank::world_size]
    return MicroBatch(rows, True) if len(rows) else MicroBatch(chunk[:1], False)
