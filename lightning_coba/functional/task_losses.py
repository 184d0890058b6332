"""Per-task losses as (sum, count) pairs, and the one scalar that a training step minimises.

Only sums and counts travel between micro-batches and ranks; a mean is taken once, at the end.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_coba.errors import UserError

Normalize = Literal["step", "present"]


class TaskLosses(NamedTuple):
    """Loss sums and counts of K tasks, in task order; every field adds up over batches and ranks.

    Attributes:
        sums: Sum of the losses of each task's elements (tokens, rows), shape ``[K]``, floating point; 0 where the
            task is absent.
        counts: Number of those elements, shape ``[K]``, integer or floating point; 0 means absent.
        squares: What a standard error needs, shape ``[3, K]``: with :math:`s_r` the sum and :math:`n_r` the count of
            row r, the sums over a task's rows of :math:`s_r^2`, :math:`s_r n_r` and :math:`n_r^2`. None = unknown.
        rows: Number of rows in which each task has an element, shape ``[K]``. Elements of one row are not independent
            of each other; rows are. None = unknown.
    """

    sums: Tensor
    counts: Tensor
    squares: Tensor | None = None
    rows: Tensor | None = None


class StepTotals(NamedTuple):
    """What a whole optimizer step holds, over all its micro-batches and ranks.

    Attributes:
        counts: each task's elements in the step, shape ``[K]``.
        num_present: number of tasks with at least one element in the step, scalar.
    """

    counts: Tensor
    num_present: Tensor | int

    @classmethod
    def of(cls, counts: Tensor) -> "StepTotals":
        """Make the totals of a step from its counts, ``[K]``, such as ``batch["step_counts"]``.

        Example:
            >>> StepTotals.of(torch.tensor([7, 0, 2])).num_present
            tensor(2)
        """
        return cls(counts, (counts > 0).sum())


def task_losses(losses: Tensor, tasks: Tensor, num_tasks: int) -> TaskLosses:
    """Sum element losses by task, without a host synchronisation and in a fixed order of addition.

    Args:
        losses: loss of each element, shape ``[n]``.
        tasks: task index of each element, int64 ``[n]``, values in ``0 .. num_tasks - 1``.
        num_tasks: K.

    Example:
        >>> task_losses(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]), 3)
        TaskLosses(sums=tensor([2., 0., 5.]), counts=tensor([1, 0, 2]), squares=None, rows=None)
    """
    member = tasks == torch.arange(num_tasks, device=tasks.device)[:, None]
    return TaskLosses(torch.where(member, losses, 0.0).sum(dim=-1), member.sum(dim=-1))


def row_task_losses(sums: Tensor, counts: Tensor, tasks: Tensor, num_tasks: int) -> TaskLosses:
    """Add up rows by task, with what a standard error needs; no host synchronisation.

    Args:
        sums: Sum of the losses of each row's elements, shape ``[R]``, floating point.
        counts: Number of those elements, shape ``[R]``; a row without any is not counted.
        tasks: Task index of each row, int64 ``[R]``, values in ``0 .. num_tasks - 1``.
        num_tasks: K.

    Example:
        >>> rows = row_task_losses(torch.tensor([2.0, 6.0]), torch.tensor([2, 3]), torch.tensor([0, 0]), 1)
        >>> rows.sums.tolist(), rows.squares[:, 0].tolist(), rows.rows.tolist()
        ([8.0], [40.0, 22.0, 13.0], [2])
    """
    member = (tasks == torch.arange(num_tasks, device=tasks.device)[:, None]) & (counts > 0)
    # The difference of squares loses half of the digits: float64, where the device has it.
    wide = torch.float32 if sums.device.type == "mps" else torch.float64
    s, n = sums.detach().to(wide), counts.to(wide)
    squares = torch.stack([s * s, s * n, n * n])
    return TaskLosses(
        torch.where(member, sums, 0.0).sum(dim=-1),
        torch.where(member, counts, 0).sum(dim=-1),
        torch.where(member, squares[:, None], 0.0).sum(dim=-1),
        member.sum(dim=-1),
    )


def task_means(losses: TaskLosses) -> Tensor:
    """Divide sums by counts, shape ``[K]`` in the sums' dtype, float32 or wider; 0 where a task is absent.

    Example:
        >>> task_means(TaskLosses(torch.tensor([6.0, 0.0]), torch.tensor([3, 0])))
        tensor([2., 0.])
    """
    sums = losses.sums.to(torch.promote_types(losses.sums.dtype, torch.float32))
    # Not clamped to 1: counts may be sums of fractional weights.
    return sums / torch.where(losses.counts > 0, losses.counts, 1).to(sums.dtype)


def standard_errors(losses: TaskLosses) -> Tensor:
    r"""Return the standard error of each task's mean, clustered by row, shape ``[K]``; NaN where it is not known.

    A mean is a ratio :math:`m = \sum_r s_r / \sum_r n_r` of sums over R independent rows; its linearised variance is

    .. math:: \frac{R}{R - 1} \frac{\sum_r (s_r - m n_r)^2}{(\sum_r n_r)^2},

    with :math:`\sum_r s_r^2 - 2 m \sum_r s_r n_r + m^2 \sum_r n_r^2` as the numerator. The difference loses digits
    where all rows have nearly the same mean: add up in float64. It needs two rows; rows that weigh equally give the
    textbook's :math:`\sigma / \sqrt R`.

    Args:
        losses: Totals of a whole pass.

    Example:
        >>> rows = row_task_losses(torch.tensor([2.0, 6.0]), torch.tensor([1, 1]), torch.tensor([0, 0]), 2)
        >>> standard_errors(rows).tolist()
        [2.0, nan]
    """
    means = task_means(losses)
    if losses.squares is None or losses.rows is None:
        return torch.full_like(means, torch.nan)
    means = means.to(torch.promote_types(means.dtype, losses.squares.dtype))
    ss, sn, nn = losses.squares
    rows, counts = losses.rows.to(means), losses.counts.to(means)
    spread = (ss - 2 * means * sn + means**2 * nn).clamp(min=0)
    errors = (rows / (rows - 1) * spread).sqrt() / counts
    return torch.where((rows > 1) & (counts > 0), errors, torch.nan)


def combine(
    losses: Tensor,
    weights: Tensor,
    present: Tensor,
    num_present: Tensor | int | None = None,
    normalize: Normalize = "step",
) -> Tensor:
    r"""Weigh per-task losses into one scalar: :math:`\frac{K}{P}\sum_{i\ \mathrm{present}} w_i l_i`.

    With all K tasks present (:math:`P = K`) this is :math:`\sum_i w_i l_i`; a task that is absent leaves the mean
    scale of the loss unchanged, and a batch of one task still feels that task's weight.

    Args:
        losses: per-task mean losses, shape ``[K]``; absent entries are ignored, whatever they hold.
        weights: shape ``[K]``, on the simplex; detached.
        present: bool ``[K]``.
        num_present: P, the present tasks of the whole optimizer step; default: of this batch.
        normalize: ``"step"`` as above; ``"present"`` divides by the present weights' sum instead, as the released
            CoBa code does. Parity only: a micro-batch with one task then ignores the weights altogether.

    Returns:
        Scalar in float32 or wider; 0 where no task is present.

    Raises:
        ValueError: if ``normalize`` is neither of the two.
    """
    wide = torch.promote_types(losses.dtype, torch.float32)
    weights = weights.detach().to(device=losses.device, dtype=wide)
    total = torch.where(present, weights * losses.to(wide), 0.0).sum()
    if normalize == "step":
        if num_present is None:
            num_present = present.sum()
        divisor = torch.as_tensor(num_present, device=total.device).to(wide).clamp(min=1)
        return total * (len(weights) / divisor)
    if normalize == "present":
        scale = torch.where(present, weights, 0.0).sum()
        return total / torch.where(scale > 0, scale, 1.0)
    raise UserError(f'`combine.normalize` must be "step" or "present"; got {normalize!r}.')
