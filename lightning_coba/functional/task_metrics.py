"""What a model gets right where it is given the true tokens before: per task, one chunk of logits at a time."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_coba.functional.task_losses import TaskLosses, task_losses


class TaskMetrics(NamedTuple):
    """Three measures of K tasks, each as sums and counts ``[K]``.

    Attributes:
        losses: loss sums, and numbers of tokens.
        accuracy: numbers of tokens whose largest logit is the right one, and of tokens.
        exact_match: numbers of rows all of whose tokens are right, and of rows.
    """

    losses: TaskLosses
    accuracy: TaskLosses
    exact_match: TaskLosses


@torch.no_grad()
def chunked_task_metrics(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    targets: Tensor,
    token_tasks: Tensor,
    token_rows: Tensor,
    num_tasks: int,
    num_rows: int,
    chunk_size: int,
) -> TaskMetrics:
    """Return per-task losses, accuracy and exact match, without gradients.

    Greedy decoding reproduces exactly the rows that match: it has the true tokens before it as long as it was right.

    Args:
        head: hidden states ``[c, H]`` -> logits ``[c, V]``.
        hidden: shape ``[n, H]``, floating point.
        targets: the tokens to predict, int64 ``[n]``.
        token_tasks: task index of each token, int64 ``[n]``.
        token_rows: the row that each token is of, int64 ``[n]``, in ``0 .. num_rows - 1``; a row is of one task.
        num_tasks: K.
        num_rows: a bound; numbers that no token has are no rows.
        chunk_size: tokens at a time.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> targets, tasks, rows = torch.tensor([1, 1, 1]), torch.tensor([0, 0, 0]), torch.tensor([5, 5, 2])
        >>> metrics = chunked_task_metrics(lambda x: x, logits, targets, tasks, rows, 1, 6, 2)
        >>> [part.tolist() for measure in (metrics.accuracy, metrics.exact_match) for part in measure[:2]]
        [[2.0], [3], [1.0], [2]]
    """
    chunks = zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True)
    measured = [_measured(head(states), tokens) for states, tokens in chunks]
    losses, right = (torch.cat(parts) for parts in zip(*measured, strict=True))
    # -1 is no task.
    row_tasks = torch.full((num_rows,), -1, device=targets.device).scatter_(0, token_rows, token_tasks)
    misses = torch.zeros_like(row_tasks).index_add_(0, token_rows, right.logical_not().long())
    return TaskMetrics(
        task_losses(losses, token_tasks, num_tasks),
        task_losses(right.float(), token_tasks, num_tasks),
        task_losses((misses == 0).float(), row_tasks, num_tasks),
    )


def _measured(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(dim=1) == targets
