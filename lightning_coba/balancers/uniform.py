from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, ConstantState, Observation, constant_state


@dataclass(frozen=True)
class Uniform(Balancer):
    r"""Give every task the weight :math:`1/K`: the mean of the tasks' mean losses.

    The baseline that any balancer has to beat. It is uniform over *tasks*; uniform over tokens is
    :class:`~lightning_coba.balancers.TokenMean`. An update costs nothing.

    Example:
        >>> Uniform().init(num_tasks=4).weights.tolist()
        [0.25, 0.25, 0.25, 0.25]

    **Differs from** LibMTL's ``EW``: weights sum to 1, not to K.
    """

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
