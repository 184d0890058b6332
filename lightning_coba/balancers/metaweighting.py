from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, Observation, check_num_tasks, float64_device
from lightning_coba.balancers.checks import check_number
from lightning_coba.functional import min_norm_point


class MetaWeightingState(NamedTuple):
    """What MetaWeighting knows after ``record`` records; float64 tensors on one device."""

    record: int
    weights: Tensor  # [K] in force


@dataclass(frozen=True)
class MetaWeighting(Balancer):
    r"""Move the weights so that the next update lowers every task's held-out loss.

    Use it as the expensive reference among methods that are steered by held-out losses: it asks what a change of the
    weights would do to them, instead of watching their slopes. A record costs K backward passes on training rows, and a
    forward and a backward pass on held-out rows, task by task; the callback restores the parameters bit for bit.

    .. math::
        \theta' = \theta - \eta \sum_k w_k \nabla L_k(\theta), \qquad
        P_{ik} = \frac{\partial V_i(\theta')}{\partial w_k} = -\eta\, \nabla V_i(\theta')^T \nabla L_k(\theta)

    .. math::
        d^* = \arg\min_{d \,\in\, \mathrm{conv}(P_1 \dots P_K)} \|d\|, \qquad w \leftarrow w - \beta\, d^*

    L_k is task k's training loss, V_i task i's held-out loss at the look-ahead point. :math:`-d^*` is a direction in
    the space of the weights that lowers all held-out losses at once. No second derivatives: the look-ahead is one step
    of gradient descent.

    Args:
        lr: :math:`\beta > 0`, step of the weights; ours, no published value was found.
        look_ahead_lr: :math:`\eta > 0`, step of the look-ahead; ours, no published value was found.

    Raises:
        ValueError: if an argument is outside its domain.

    Example:
        >>> from lightning_coba import replay
        >>> hypergradients = [[[-0.2, 0.1], [-0.1, 0.0]]]  # more weight on the first task lowers both losses
        >>> replay(MetaWeighting(), hypergradients=hypergradients)[-1]
        tensor([0.5455, 0.4545], dtype=torch.float64)

    References:
        Mao et al., "MetaWeighting: Learning to Weight Tasks in Multi-Task Learning", Findings of ACL 2022
        (2022.findings-acl.271).

    **Differs from** the paper, whose learning rates and normalisation are not public:
        * held-out rows are the query set, training rows the support set; the paper splits the training data.
        * w is clamped at 0 and rescaled to sum 1 after a step.
        * record t's weights act from the next optimizer step on.
        * gradients are of the trainable parameters (``parameters`` of the callback narrows them).
        * a task without training rows in the step has a column of zeros; one without a held-out loss is left out of
          the convex hull.
    """

    lr: float = 1.0
    look_ahead_lr: float = 0.01

    def __post_init__(self) -> None:
        """Check the domains."""
        check_number("MetaWeighting.lr", self.lr, above=0)
        check_number("MetaWeighting.look_ahead_lr", self.look_ahead_lr, above=0)

    @property
    def needs(self) -> frozenset[str]:
        """The derivatives P."""
        return frozenset({"hypergradients"})

    def init(
        self, num_tasks: int, initial: Tensor | None = None, device: torch.device | str | None = None
    ) -> MetaWeightingState:
        """Return the state before the first record; see :meth:`Balancer.init`."""
        check_num_tasks(num_tasks)
        shape, device = (num_tasks,), float64_device(device)
        return MetaWeightingState(0, torch.full(shape, 1 / num_tasks, dtype=torch.float64, device=device))

    def update(self, state: MetaWeightingState, observation: Observation) -> tuple[MetaWeightingState, Tensor]:
        """Take one record; waits for the device. See :meth:`Balancer.update`."""
        assert observation.hypergradients is not None
        rows = observation.hypergradients.detach().to("cpu", torch.float64)
        present = observation.present.cpu()
        # An absent task's column says nothing about its weight.
        rows = torch.where(present, rows, 0.0)
        present = present & rows.isfinite().all(dim=1)
        weights = state.weights
        if present.any() and len(weights) > 1:
            rows = torch.where(present[:, None], rows, 0.0)
            direction = min_norm_point(rows @ rows.T, present) @ rows
            moved = (weights - self.lr * direction.to(weights)).clamp(min=0)
            total = moved.sum()
            weights = torch.where(total > 0, moved / total, 1 / len(moved))
        return MetaWeightingState(state.record + 1, weights), weights
