"""A resumed run keeps its optimizer steps, whatever its number of processes and its accumulation."""

from typing import NamedTuple

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from lightning_coba.lightning_internals import loaded_batch_counts


class StepSize(NamedTuple):
    """What an optimizer step holds.

    Attributes:
        size: rows over all micro-batches and ranks (sequences, or micro-batches under a token budget; see `Planner`).
        accumulate: micro-batches of a process in a step.
    """

    size: int
    accumulate: int


def kept_size(planned: StepSize | None, batch_size: int, accumulate: int, world_size: int) -> int:
    """Return the rows (or packed sequences) of an optimizer step: as the settings say, or as before the resume.

    Args:
        planned: of the run that is resumed; ``None`` = this is a new one.
        batch_size: rows of a process and micro-batch.
        accumulate: micro-batches of a process in a step.
        world_size: processes.
    """
    size = batch_size * accumulate * world_size
    if planned is None or planned.size == size:
        return size
    rank_zero_warn(
        f"The resumed run's optimizer steps hold {planned.size} rows and keep them: "
        f"{planned.size / (accumulate * world_size):g} a process and micro-batch instead of batch_size={batch_size}. "
        "Choose MultitaskDataModule.batch_size and Trainer.accumulate_grad_batches so that their product with the "
        f"{world_size} processes is {planned.size}."
    )
    return planned.size


def rescale_progress(trainer: L.Trainer | None, old: int, new: int) -> None:
    """Count the batches of the checkpoint that is being loaded as if it had been accumulated otherwise.

    Lightning counts micro-batches, and a checkpoint of n steps of ``old`` micro-batches has to go on as one of n steps
    of ``new``. It is called while the datamodule's state is loaded, before the loops read theirs.

    Args:
        trainer: that resumes; ``None`` does nothing.
        old: micro-batches of a step and process in the checkpoint.
        new: the same now.

    Raises:
        ValueError: The checkpoint was written inside an accumulation window.
    """
    for counts in [] if trainer is None else loaded_batch_counts(trainer):
        steps, rest = divmod(counts["ready"], old)
        if rest:
            raise ValueError(
                f"`Trainer.accumulate_grad_batches` must stay {old} on a resume from a checkpoint that was written "
                f"inside an accumulation window; got {new}. Resume with {old}, or from another checkpoint."
            )
        shift = steps * new - counts["ready"]
        for stage in counts:
            counts[stage] += shift  # the last batch may not be counted as completed yet
