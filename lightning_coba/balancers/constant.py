"""What the methods whose weights do not look at losses have in common."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, Observation, check_num_tasks, float64_device


class ConstantState(NamedTuple):
    """State of a balancer that does not look at losses."""

    weights: Tensor
    record: int


class ConstantBalancer(Balancer):
    """A method whose weights do not look at losses: equal ones, unless it says otherwise.

    Abstract with behaviour: three methods differ in their weights alone.
    """

    def _weights(self, num_tasks: int) -> Sequence[float]:
        """Return the weights in task order; they are divided by their sum."""
        return [1.0] * num_tasks

    def init(
        self, num_tasks: int, initial: Tensor | None = None, device: torch.device | str | None = None
    ) -> ConstantState:
        """Return the state before the first record; see :meth:`Balancer.init`."""
        check_num_tasks(num_tasks)
        weights = torch.tensor(self._weights(num_tasks), dtype=torch.float64, device=float64_device(device))
        return ConstantState(weights / weights.sum(), record=0)

    def update(self, state: ConstantState, observation: Observation) -> tuple[ConstantState, Tensor]:
        """Count the record; see :meth:`Balancer.update`."""
        return state._replace(record=state.record + 1), state.weights

    def admit(self, state: ConstantState, columns: Sequence[int | None]) -> ConstantState:
        """Start over with more tasks; see :meth:`Balancer.admit`."""
        return self.init(len(columns), device=state.weights.device)._replace(record=state.record)
