from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_coba.balancers.base import Observation
from lightning_coba.balancers.torchjd_adapter import (
    LossBalancer,
    LossesState,
    derivatives,
    last_losses,
    no_losses,
    shares,
)

#: A loss below this counts as this where it is divided by.
SMALLEST_LOSS = 1e-12


@dataclass(frozen=True)
class GeometricMean(LossBalancer):
    r"""Minimise the geometric mean of the losses: the Geometric Loss Strategy (GLS).

    Use it where losses differ in size: it asks every task for the same relative progress, with nothing to tune. A
    record costs a dozen operations on K numbers, and waits for the device.

    .. math::
        \nabla \Big(\prod_i L_i\Big)^{1/K} \;\propto\; \sum_i \frac{1}{L_i} \nabla L_i, \qquad
        w_i = \frac{1/L_i}{\sum_j 1/L_j}

    :math:`L_i` is task i's training loss.

    Raises:
        ValueError: in an update, if a loss is negative: it has no geometric mean.

    Example:
        >>> from lightning_coba import replay
        >>> replay(GeometricMean(), train_losses=[[1.0, 3.0]])[-1]
        tensor([0.7500, 0.2500], dtype=torch.float64)

    References:
        Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task
        Learning", CVPR Workshops 2019; rule: torchjd 0.18, ``GeometricMean``.

    **Differs from** the paper and torchjd:
        * the direction is that of the geometric mean, the size that of a weighted mean: weights sum to 1.
        * record t's weights act from the next optimizer step on; the paper divides by the losses of the step itself.
        * losses below 1e-12 count as 1e-12: a task with loss 0 gets all the weight (shared, if several have), where
          the derivative is NaN.
        * an absent task (mask, NaN, inf) keeps its last loss; one never seen has the weight 1/K. In the paper an absent
          task's factor would take the product to 0.
    """

    def _first_state(self, num_tasks: int, device: torch.device) -> LossesState:
        return no_losses(num_tasks, device)

    def update(self, state: LossesState, observation: Observation) -> tuple[LossesState, Tensor]:
        """Take one record; waits for the device. See :meth:`Balancer.update`."""
        from torchjd import scalarization

        losses = last_losses(state, observation)
        known = losses.isfinite()
        divisors = torch.where(known, losses, 1.0)
        # Negative losses pass, for torchjd to refuse.
        divisors = torch.where(divisors.abs() < SMALLEST_LOSS, SMALLEST_LOSS, divisors)
        (parts,) = derivatives(scalarization.GeometricMean(), divisors)
        state = LossesState(state.record + 1, losses, shares(parts, known))
        return state, state.weights
