from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_coba.balancers.base import Observation
from lightning_coba.balancers.checks import check_number, in_task_order, numbers
from lightning_coba.balancers.torchjd_adapter import (
    LossBalancer,
    LossesState,
    derivatives,
    last_losses,
    no_losses,
    shares,
)
from lightning_coba.errors import UserError


@dataclass(frozen=True)
class STCH(LossBalancer):
    r"""Minimise a smooth maximum of the losses: smooth Tchebycheff scalarization.

    Use it when the worst task counts; with preferences it reaches any point of the trade-off between tasks. A record
    costs a dozen operations on K numbers.

    .. math::
        \min\; \mu \log \sum_i e^{y_i/\mu}, \quad y_i = \lambda_i (L_i - z_i), \qquad
        w_i = \frac{\lambda_i e^{y_i/\mu}}{\sum_j \lambda_j e^{y_j/\mu}}

    :math:`L_i` is task i's training loss, :math:`\lambda_i` its preference (their sum is 1), :math:`z_i` its reference,
    the loss that it should reach, and :math:`\mu` how far from a true maximum the rule stays.

    Args:
        mu: :math:`\mu` > 0; smaller is sharper (0.1, ours among the paper's 0.01, 0.1, 0.5 and 1: with
            :math:`\lambda` = 1/K and losses of 1 to 3, 1 hardly differs from uniform weights).
        preference: :math:`\lambda` > 0 in any scale, in task order or by task name; None = all equal (torchjd).
        reference: z, likewise; None = all 0 (torchjd).

    Raises:
        ValueError: if an argument is outside its domain, or if names or numbers do not fit the tasks.

    Example:
        >>> from lightning_coba import replay
        >>> replay(STCH(), train_losses=[[1.0, 1.2]])[-1]
        tensor([0.2689, 0.7311], dtype=torch.float64)

    References:
        Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML 2024 (arXiv 2402.19078);
        rule: torchjd 0.18, ``STCH``.

    **Differs from** the paper and torchjd:
        * weights sum to 1, whatever the preferences.
        * record t's weights act from the next optimizer step on; the paper differentiates at the step's own losses.
        * an absent task (mask, NaN, inf) keeps its last loss; one never seen has the weight 1/K, and the rule is on the
          tasks seen, whose preferences are scaled to sum 1.
        * the reference is fixed: no warm-up that estimates it.
    """

    mu: float = 0.1
    preference: Mapping[str, float] | Sequence[float] | None = None
    reference: Mapping[str, float] | Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Check the domains."""
        check_number("STCH.mu", self.mu, above=0)
        for value in numbers(self.preference):
            check_number("STCH.preference", value, above=0)
        for value in numbers(self.reference):
            check_number("STCH.reference", value)

    def for_tasks(self, tasks: Sequence[str]) -> "STCH":
        """Put what is given by name into task order; see :meth:`Balancer.for_tasks`."""
        return replace(
            self,
            preference=in_task_order("STCH.preference", self.preference, tasks),
            reference=in_task_order("STCH.reference", self.reference, tasks),
        )

    def _first_state(self, num_tasks: int, device: torch.device) -> LossesState:
        for name in ("preference", "reference"):
            given = getattr(self, name)
            if given is not None and len(given) != num_tasks:
                raise UserError(f"`STCH.{name}` must hold {num_tasks} numbers, one per task; got {given!r}.")
        return no_losses(num_tasks, device)

    def update(self, state: LossesState, observation: Observation) -> tuple[LossesState, Tensor]:
        """Take one record; see :meth:`Balancer.update`."""
        losses = last_losses(state, observation)
        known = losses.isfinite()
        preference = losses.new_tensor(numbers(self.preference) or [1.0] * len(losses))
        reference = losses.new_tensor(numbers(self.reference) or [0.0] * len(losses))
        preference = preference / torch.where(known, preference, 0.0).sum()
        # -inf leaves a task out of the maximum.
        parts, *_ = derivatives(self._value, torch.where(known, losses, -torch.inf), preference, reference)
        state = LossesState(state.record + 1, losses, shares(parts, known))
        return state, state.weights

    def _value(self, losses: Tensor, preference: Tensor, reference: Tensor) -> Tensor:
        from torchjd import scalarization

        return scalarization.STCH(self.mu, preference, reference)(losses)
