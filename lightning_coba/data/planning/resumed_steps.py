"""A resumed run keeps its optimizer steps, whatever its number of processes and its accumulation."""

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from lightning_coba.errors import UserError
from lightning_coba.lightning_internals import loaded_batch_counts


def kept_size(resumed: int | None, batch_size: int | None, num_parts: int) -> int:
    """Return the size of an optimizer step: as the settings say, or as before the resume.

    Args:
        resumed: size of a step of the run that is resumed; ``None`` = this is a new one.
        batch_size: rows (or packed sequences) of a process and micro-batch; ``None`` under a token budget, where the
            size of a step is its number of micro-batches.
        num_parts: accumulated micro-batches times processes.
    """
    size = num_parts * (batch_size or 1)
    if resumed is None:
        return size
    if batch_size is not None and resumed != size:
        rank_zero_warn(
            f"The run was started with optimizer steps of {resumed} rows and goes on with them, so each process reads "
            f"{resumed / num_parts:g} rows per micro-batch instead of batch_size={batch_size}. To avoid that, choose "
            "MultitaskDataModule.batch_size, Trainer.accumulate_grad_batches and the number of processes so that their "
            f"product is {resumed}."
        )
    return resumed


def rescale_progress(trainer: L.Trainer, old: int, new: int) -> None:
    """Count the batches of the checkpoint that is being loaded as if it had been accumulated otherwise.

    Lightning counts micro-batches, and a checkpoint of n steps of ``old`` micro-batches has to go on as one of n steps
    of ``new``. It is called while the datamodule's state is loaded, before the loops read theirs.

    Args:
        trainer: that resumes.
        old: micro-batches of a step and process in the checkpoint.
        new: the same now.

    Raises:
        ValueError: The checkpoint was written inside an accumulation window.
    """
    for counts in loaded_batch_counts(trainer):
        steps, rest = divmod(counts["ready"], old)
        if rest:
            raise UserError(
                f"`Trainer.accumulate_grad_batches` must stay {old} on a resume from a checkpoint that was written "
                f"inside an accumulation window; got {new}.",
                f"Resume with {old}, or from another checkpoint.",
            )
        shift = steps * new - counts["ready"]
        for stage in counts:
            counts[stage] += shift  # the last batch may not be counted as completed yet
