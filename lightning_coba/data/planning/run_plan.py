"""From the settings of a run to the plan of its steps."""

from collections.abc import Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_coba.data.planning.mixing import Mixing, epoch_rows
from lightning_coba.data.planning.planner import Batching, Planner


def plan_run(
    lengths: Sequence[np.ndarray],
    mixing: Mixing,
    epoch: str | int,
    step_size: int,
    batching: Batching,
    max_length: int,
    batch_tokens: int | None,
    seed: int,
) -> Planner:
    """Plan the steps of epochs whose length is given by name or in steps; warn where a row is beyond the budget.

    Args:
        lengths: tokens of each training row, a ``[rows]`` array for each of K tasks.
        mixing: see `Planner`.
        epoch: see `MultitaskDataModule`.
        step_size: see `Planner`.
        batching: see `Planner`.
        max_length: tokens of a packed sequence.
        batch_tokens: see `Planner`.
        seed: see `Planner`.

    Raises:
        ValueError: The arguments do not go together.
    """
    longest = max(int(task.max()) for task in lengths)
    if batch_tokens is not None and longest > batch_tokens:
        rank_zero_warn(
            f"The longest row has {longest} tokens, more than `batch_tokens`={batch_tokens}: "
            "rows beyond the budget are micro-batches of their own. Raise it, or lower max_length."
        )
    sizes = [len(task) for task in lengths]
    rows_per_step = step_size
    if batch_tokens or batching == "packed":
        # No fixed number of rows: about so many; an epoch of a number of steps is cut from their endless stream.
        mean = float(mixing.shares(sizes) @ np.array([task.mean() for task in lengths]))
        rows_per_step = max(1, round(step_size * (batch_tokens or max_length) / mean))
    return Planner(
        lengths,
        mixing,
        epoch_rows(sizes, mixing, epoch, rows_per_step),
        step_size,
        batching,
        max_length if batching == "packed" else None,
        batch_tokens,
        seed,
    )
