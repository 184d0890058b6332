"""Pure functions from tensors to tensors: they know neither models nor trainers."""

from lightning_coba.functional.chunked_loss import checkpointed_task_losses, chunked_task_losses, tokens_per_chunk
from lightning_coba.functional.permutations import permutation_stream
from lightning_coba.functional.scores import (
    absolute_convergence_scores,
    divergence_factor,
    relative_convergence_scores,
)
from lightning_coba.functional.slopes import masked_slopes
from lightning_coba.functional.task_losses import StepTotals, TaskLosses, combine, task_losses, task_means

__all__ = [
    "StepTotals",
    "TaskLosses",
    "absolute_convergence_scores",
    "checkpointed_task_losses",
    "chunked_task_losses",
    "combine",
    "divergence_factor",
    "masked_slopes",
    "permutation_stream",
    "relative_convergence_scores",
    "task_losses",
    "task_means",
    "tokens_per_chunk",
]
