"""How the tasks share an epoch: which row of which task comes in which turn, a pure function of (seed, epoch).

A rule says how large each task's share is, and whether the tasks take fixed turns. Which rows those are follows from
each task's own endless stream of permutations, so every rule shows all rows of a task once before it shows any again,
across epochs too. To add a rule, write its shares and name it in `_SHARES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_coba.errors import UserError
from lightning_coba.functional import permutation_stream, seed_of

_GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Mixing:
    """The static sampling weights of a run; the balancer's loss weights are another thing.

    With e = a task's rows, at most ``max_rows`` of them, times ``repeats``:

    - ``proportional``: share e. Without caps and repeats: every row once an epoch.
    - ``temperature``: share e^(1/T): between proportional (T = 1) and uniform (large T).
    - ``uniform``: equal shares; small tasks repeat, large ones take several epochs.
    - ``weighted``: the given ``sampling_weights``.
    - ``round_robin``: one row of each task in turn.
    - ``stratified``: the same, in whole optimizer steps, each of which holds every task.

    The first four lay each task's rows out evenly over the epoch.

    Args:
        rule: one of the names above.
        temperature: T, above 0.
        sampling_weights: of each task, in task order, above 0; for ``weighted`` and only there.
        max_rows: of each task, rows an epoch takes at most; ``None`` = all.
        repeats: of each task, how often an epoch shows a row, above 0.

    Raises:
        ValueError: A value is outside its domain.
    """

    rule: str = "proportional"
    temperature: float = 2.0
    sampling_weights: tuple[float, ...] | None = None
    max_rows: tuple[int | None, ...] | None = None
    repeats: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.rule not in _SHARES:
            raise UserError(f"`mixing` must be one of {', '.join(_SHARES)}; got {self.rule!r}.", "Choose one.")
        if not self.temperature > 0:
            raise UserError(f"`mixing_temperature` must be above 0; got {self.temperature}.", "The usual value is 2.")
        if (self.rule == "weighted") != (self.sampling_weights is not None):
            got = "none" if self.sampling_weights is None else f"them with mixing={self.rule!r}"
            raise UserError(
                f"`sampling_weights` must be given with mixing='weighted' and only there; got {got}.",
                "Write mixing='weighted', sampling_weights={task: weight, ...}.",
            )
        if self.sampling_weights is not None and not all(
            weight > 0 and np.isfinite(weight) for weight in self.sampling_weights
        ):
            raise UserError(
                f"`sampling_weights` must be above 0; got {list(self.sampling_weights)}.",
                "Leave a task out of `tasks` to leave it out of the run.",
            )

    @property
    def in_turns(self) -> bool:
        """Whether position alone says whose turn it is."""
        return self.rule in _IN_TURNS

    def shares(self, sizes: Sequence[int]) -> np.ndarray:
        """Return the share of each task in an epoch, float64 ``[K]``, summing to 1."""
        shares = np.array([float(share) for share in _SHARES[self.rule](self, self.effective_sizes(sizes))])
        return shares / shares.sum()

    def effective_sizes(self, sizes: Sequence[int]) -> list[float]:
        """Return each task's rows after caps and repeats, ``[K]``."""
        caps = self.max_rows or [None] * len(sizes)
        repeats = self.repeats or [1] * len(sizes)
        capped = [size if cap is None else min(size, cap) for size, cap in zip(sizes, caps, strict=True)]
        return [size * repeat for size, repeat in zip(capped, repeats, strict=True)]


def _equal(mixing: Mixing, sizes: list[float]) -> Sequence[float]:
    return [1] * len(sizes)


_SHARES: dict[str, Callable[[Mixing, list[float]], Sequence[float]]] = {
    "proportional": lambda mixing, sizes: sizes,
    "temperature": lambda mixing, sizes: [size ** (1 / mixing.temperature) for size in sizes],
    "uniform": _equal,
    "weighted": lambda mixing, sizes: mixing.sampling_weights or (),
    "round_robin": _equal,
    "stratified": _equal,
}
_IN_TURNS = ("round_robin", "stratified")
MIXING_RULES = tuple(_SHARES)


def check_epoch(epoch: str | int) -> None:
    """Refuse what is no length of an epoch; see `epoch_rows`.

    Raises:
        ValueError: It is neither a name nor a number of steps.
    """
    steps = isinstance(epoch, int) and not isinstance(epoch, bool) and epoch >= 1
    if not steps and epoch not in ("all", "largest", "smallest"):
        raise UserError(
            "`epoch` must be 'all', 'largest', 'smallest' or a number of optimizer steps of at least 1; got "
            f"{epoch!r}.",
            "Choose one.",
        )


def epoch_rows(sizes: Sequence[int], mixing: Mixing, epoch: str | int = "all", step_rows: int | None = None) -> int:
    """Return the number of rows in an epoch.

    Args:
        sizes: rows of each task, ``[K]``.
        mixing: how they share it.
        epoch: ``"all"`` = the sum of the sizes (after caps and repeats); ``"largest"`` = until the largest task
            relative to its share has been seen whole; ``"smallest"`` = the same of the smallest; or a number of
            optimizer steps.
        step_rows: rows of an optimizer step; needed for ``stratified``, which rounds up to whole steps, and
            for a number of steps.

    Raises:
        ValueError: A value is outside its domain; with ``stratified``, a step has fewer rows than there are tasks.
    """
    if not sizes or min(sizes) < 1:
        raise UserError(f"`sizes` must be at least one row per task; got {list(sizes)}.", "Leave empty tasks out.")
    check_epoch(epoch)
    effective = np.array(mixing.effective_sizes(sizes))
    whole_passes = effective / mixing.shares(sizes)
    if isinstance(epoch, int):
        rows = epoch * (step_rows or 1)
    else:
        length = {"all": effective.sum(), "largest": whole_passes.max(), "smallest": whole_passes.min()}[epoch]
        # Shares are fractions, and 300 rows must not become 301.
        rows = max(1, int(np.ceil(length - 1e-6)))
    if mixing.rule != "stratified":
        return rows
    if step_rows is None or step_rows < len(sizes):
        raise UserError(
            f"With mixing='stratified' a step must hold a row of each of {len(sizes)} tasks; it has {step_rows}.",
            "Raise MultitaskDataModule.batch_size or Trainer.accumulate_grad_batches.",
        )
    return -(-rows // step_rows) * step_rows


def mixed_order(sizes: Sequence[int], mixing: Mixing, seed: int, epoch: int, num_rows: int) -> np.ndarray:
    """Return which row comes when in an epoch, a pure function of the arguments.

    Args:
        sizes: rows of each task, ``[K]``.
        mixing: how they share the epoch.
        seed: another seed, another order.
        epoch: from 0.
        num_rows: rows in every epoch, of `epoch_rows`.

    Returns:
        int32 ``[num_rows, 2]``: (task, row within the task) of each position.

    Example:
        >>> mixed_order([4, 2], Mixing(), seed=0, epoch=0, num_rows=6)[:, 0].tolist().count(1)
        2
    """
    before, turns = _turns(sizes, mixing, seed, epoch, num_rows)
    order = np.empty((num_rows, 2), dtype=np.int32)
    order[:, 0] = turns
    by_task = np.argsort(turns, kind="stable")
    ends = np.cumsum(np.bincount(turns, minlength=len(sizes)))
    for task, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        stream = permutation_stream(sizes[task], (seed, "train", task), int(before[task]), int(end - begin))
        order[by_task[begin:end], 1] = stream.numpy()
    return order


def _turns(sizes: Sequence[int], mixing: Mixing, seed: int, epoch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that earlier epochs took of each task, ``[K]``, and the task of each position, ``[L]``."""
    num_tasks = len(sizes)
    dtype = np.int16 if num_tasks < 2**15 else np.int32  # small integers sort in linear time
    if mixing.in_turns:
        # Taking turns puts every task into every window of K or more rows, wherever a step begins.
        start = epoch * length
        before = (start + num_tasks - 1 - np.arange(num_tasks)) // num_tasks
        return before, (np.arange(start, start + length) % num_tasks).astype(dtype)
    counts = _counts(_whole(_SHARES[mixing.rule](mixing, mixing.effective_sizes(sizes))), length, epoch + 1)
    now = counts[-1]
    offsets = np.random.default_rng(seed_of(seed, "layout", epoch)).random(num_tasks)
    tasks = np.repeat(np.arange(num_tasks, dtype=dtype), now)
    within = np.arange(length) - np.repeat(np.cumsum(now) - now, now)
    # Of a task's n rows, the j-th sits at (j + u) / n of the epoch, with a random offset u per task and epoch.
    places = (within + offsets[tasks]) / now[tasks]
    return counts[:-1].sum(axis=0), tasks[np.argsort(places, kind="stable")]


def _whole(shares: Sequence[float]) -> list[int]:
    """Make whole numbers of shares, so that those that come out even are exact."""
    if all(float(share).is_integer() for share in shares):
        return [int(share) for share in shares]
    scale = 10**9 / max(shares)
    return [max(1, round(share * scale)) for share in shares]


def _counts(weights: Sequence[int], length: int, num_epochs: int) -> np.ndarray:
    """Share ``length`` rows by weight, in each of the first epochs: int64 ``[num_epochs, K]``."""
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
