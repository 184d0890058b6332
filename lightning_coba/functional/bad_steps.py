"""Count optimizer steps in a row whose loss is not finite, on the device where the losses are."""

from typing import NamedTuple

import torch
from torch import Tensor


class BadSteps(NamedTuple):
    """The row of bad steps that is under way; once it is long enough it stays as it is, until somebody reads it.

    Attributes:
        row: Bad steps in a row so far, int64 scalar.
        first: The first of them, int64 scalar; 0 = none.
        tasks: Which tasks' losses were bad at that step, bool ``[K]``.
    """

    row: Tensor
    first: Tensor
    tasks: Tensor

    @classmethod
    def none(cls, num_tasks: int, device: torch.device | None = None) -> "BadSteps":
        """Return the state before the first step.

        Example:
            >>> state = BadSteps.none(1)
            >>> for step, loss in enumerate([1.0, torch.nan, torch.inf, 1.0], start=1):
            ...     state = state.after(step, ~torch.tensor(loss).isfinite(), torch.tensor([True]), longest=2)
            >>> state.row.item(), state.first.item()
            (2, 2)
        """
        zero = torch.zeros((), dtype=torch.int64, device=device)
        return cls(zero, zero, torch.zeros(num_tasks, dtype=torch.bool, device=device))

    def after(self, step: int, bad: Tensor, tasks: Tensor, longest: int) -> "BadSteps":
        """Return the state after one more optimizer step; no host synchronisation.

        Args:
            step: The step, from 1.
            bad: Whether its loss is not finite, bool scalar.
            tasks: Which tasks' losses are not finite in it, bool ``[K]``.
            longest: Number of bad steps in a row at which the state stays as it is.
        """
        begins = bad & (self.row == 0)
        now = BadSteps(
            torch.where(bad, self.row + 1, 0),
            torch.where(begins, step, torch.where(bad, self.first, 0)),
            torch.where(begins, tasks, self.tasks & bad),
        )
        is_over = self.row >= longest
        return BadSteps(*(torch.where(is_over, old, new) for old, new in zip(self, now, strict=True)))
