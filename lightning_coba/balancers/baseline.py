"""The loss that a task began with: what methods on loss ratios divide by."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coba.errors import UserError


class Baseline(NamedTuple):
    """L(0) of K tasks, taken from the first records.

    Attributes:
        losses: float64 ``[K]``; NaN until a task's first present record.
        records: how many records the mean is over, float64 ``[K]``.
    """

    losses: Tensor
    records: Tensor


def unknown_baseline(initial: Tensor | None, num_tasks: int, device: torch.device, num_records: int) -> Baseline:
    """Return the baseline before the first record: what ``initial`` holds is final, the rest is unknown.

    Args:
        initial: ``[K]``, NaN where it is to be taken from records; or None.
        num_tasks: K.
        device: where the tensors live.
        num_records: records that a measured baseline is the mean of.
    """
    if initial is not None and initial.shape != (num_tasks,):
        raise UserError(f"`init.initial` must have shape ({num_tasks},); got {tuple(initial.shape)}.")
    unknown = torch.full((num_tasks,), torch.nan, dtype=torch.float64, device=device)
    losses = unknown if initial is None else initial.to(unknown, copy=True)
    return Baseline(losses, torch.where(losses.isnan(), 0.0, float(num_records)))


def with_record(baseline: Baseline, losses: Tensor, present: Tensor, num_records: int) -> Baseline:
    """Take a record into the running mean of each task whose first ``num_records`` present ones are not over.

    A record that cannot be divided by (0, negative) does not count.
    """
    taken = present & (losses > 0) & (baseline.records < num_records)
    records = baseline.records + taken
    before = torch.where(baseline.losses.isnan(), 0.0, baseline.losses)
    mean = before + (losses - before) / records.clamp(min=1)
    return Baseline(torch.where(taken, mean, baseline.losses), records)
