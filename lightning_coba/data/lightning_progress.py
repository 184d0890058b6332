"""The one place that writes to Lightning's own progress: a resume with another accumulation."""

from typing import Any

import lightning as L


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
    checkpoint: dict[str, Any] | None = trainer and trainer._checkpoint_connector._loaded_checkpoint
    if not checkpoint or "loops" not in checkpoint:
        return
    for counts in _batch_counts(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]):
        steps, rest = divmod(counts["ready"], old)
        if rest:
            raise ValueError(
                f"`Trainer.accumulate_grad_batches` must stay {old} on a resume from a checkpoint that was written "
                f"inside an accumulation window; got {new}. Resume with {old}, or from another checkpoint."
            )
        shift = steps * new - counts["ready"]
        for stage in counts:
            counts[stage] += shift  # the last batch may not be counted as completed yet


def _batch_counts(progress: dict[str, Any]) -> list[dict[str, int]]:
    return [progress["total"], progress["current"]]
