from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, ConstantState, Observation, constant_state


@dataclass(frozen=True)
class TokenMean(Balancer):
    r"""Weigh every token alike: :math:`\sum_i s_i / \sum_i n_i` over the tasks' loss sums and token counts.

    The proportional baseline, what fine-tuning on the concatenated data does: a task counts as much as it has tokens.
    It needs ``TaskLosses`` (sums and counts) in ``combine``; from task means it cannot be computed. Its ``weights``
    are the uniform ones, and multiply nothing. An update costs nothing.

    Example:
        >>> from lightning_coba import TaskLosses, TaskWeights
        >>> weights = TaskWeights(["code", "qa"])
        >>> weights.weighs = TokenMean.weighs
        >>> weights.combine(TaskLosses(torch.tensor([30.0, 2.0]), torch.tensor([15, 1]))).item()
        2.0

    References:
        "case1" of MFTCoder, ``loss_utils.py``.
    """

    weighs: ClassVar[Literal["tasks", "tokens"]] = "tokens"

    def init(
        self, num_tasks: int, initial: Tensor | None = None, device: torch.device | str | None = None
    ) -> ConstantState:
        """Return the state before the first record; see :meth:`Balancer.init`."""
        return constant_state([1.0] * num_tasks, num_tasks, device)

    def update(self, state: ConstantState, observation: Observation) -> tuple[ConstantState, Tensor]:
        """Count the record; see :meth:`Balancer.update`."""
        return state._replace(record=state.record + 1), state.weights

    def admit(self, state: ConstantState, columns: Sequence[int | None]) -> ConstantState:
        """Start over with more tasks; see :meth:`Balancer.admit`."""
        return self.init(len(columns), device=state.weights.device)._replace(record=state.record)
