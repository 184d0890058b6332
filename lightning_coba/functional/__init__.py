"""Pure functions from tensors to tensors: they know neither models nor trainers."""

from lightning_coba.functional.adam import adam_step
from lightning_coba.functional.bad_steps import BadSteps
from lightning_coba.functional.chunked_loss import checkpointed_task_losses, chunked_task_losses, tokens_per_chunk
from lightning_coba.functional.min_norm import min_norm_point
from lightning_coba.functional.permutations import permutation_stream
from lightning_coba.functional.scores import (
    absolute_convergence_scores,
    divergence_factor,
    relative_convergence_scores,
)
from lightning_coba.functional.seeds import seed_of, set_seed
from lightning_coba.functional.slopes import masked_slopes
from lightning_coba.functional.snapshot import Snapshot
from lightning_coba.functional.task_losses import (
    StepTotals,
    TaskLosses,
    combine,
    row_task_losses,
    standard_errors,
    task_losses,
    task_means,
)
from lightning_coba.functional.task_metrics import TaskMetrics, chunked_task_metrics
from lightning_coba.functional.undisturbed import RandomState, random_state, set_random_state, undisturbed

__all__ = [
    "BadSteps",
    "RandomState",
    "Snapshot",
    "StepTotals",
    "TaskLosses",
    "TaskMetrics",
    "absolute_convergence_scores",
    "adam_step",
    "checkpointed_task_losses",
    "chunked_task_losses",
    "chunked_task_metrics",
    "combine",
    "divergence_factor",
    "masked_slopes",
    "min_norm_point",
    "permutation_stream",
    "random_state",
    "relative_convergence_scores",
    "row_task_losses",
    "seed_of",
    "set_random_state",
    "set_seed",
    "standard_errors",
    "task_losses",
    "task_means",
    "tokens_per_chunk",
    "undisturbed",
]
