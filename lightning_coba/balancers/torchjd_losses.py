"""Methods that weight tasks by a fixed rule on the last training losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import ConstantState, Observation
from lightning_coba.balancers.checks import check_count, check_number
from lightning_coba.balancers.torchjd_adapter import (
    LossBalancer,
    derivatives,
    drawing,
    shares,
    training_losses,
    uniform,
)

#: A loss below this counts as this where it is divided by.
SMALLEST_LOSS = 1e-12


class LossesState(NamedTuple):
    """Each task's last loss; float64 tensors on one device."""

    record: int
    losses: Tensor  # [K] last known; NaN before a task was seen
    weights: Tensor  # [K] in force


@dataclass(frozen=True)
class RLW(LossBalancer):
    r"""Draw the weights anew at each step: random loss weighting.

    Use it as the baseline that a balancer must beat to show that it knows anything: the paper found it close to most
    of them. A record costs K draws.

    .. math::
        w = \mathrm{softmax}(z), \qquad z \sim N(0, I)

    Args:
        seed: of the draws (ours: 0). Draw t is a pure function of (seed, t): all ranks agree, a resume goes on with
            the same draws, and the global generators stay as they are.

    Raises:
        ValueError: if ``seed`` is not an integer >= 0.

    Example:
        >>> from lightning_coba import replay
        >>> weights = replay(RLW(seed=1), train_losses=[[1.0, 2.0, 3.0]] * 500)
        >>> weights.mean(dim=0).sub(1 / 3).abs().max() < 0.02
        tensor(True)

    References:
        Lin et al., "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning", TMLR 2022,
        Algorithm 2; rule: torchjd 0.18, ``Random``.

    **Differs from** the paper and torchjd:
        * own draws, on the CPU; torchjd's come from the global generator of the loss's device, which differs from rank
          to rank.
        * an absent task's draw is made and not used: presence moves nobody's weight.
        * record t's draw acts at the next optimizer step.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        """Check the domain."""
        check_count("RLW.seed", self.seed, at_least=0)

    def _first_state(self, num_tasks: int, device: torch.device) -> ConstantState:
        return ConstantState(uniform(num_tasks, device), record=0)

    def update(self, state: ConstantState, observation: Observation) -> tuple[ConstantState, Tensor]:
        """Take one record; see :meth:`Balancer.update`."""
        from torchjd import scalarization

        record = state.record + 1
        with drawing(self.seed, record):
            (weights,) = derivatives(scalarization.Random(), torch.zeros(len(state.weights), dtype=torch.float64))
        state = ConstantState(weights.to(state.weights), record)
        return state, state.weights


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
        return _nothing_seen(num_tasks, device)

    def update(self, state: LossesState, observation: Observation) -> tuple[LossesState, Tensor]:
        """Take one record; waits for the device. See :meth:`Balancer.update`."""
        from torchjd import scalarization

        losses = _last_losses(state, observation)
        known = losses.isfinite()
        divisors = torch.where(known, losses, 1.0)
        # Negative losses pass, for torchjd to refuse.
        divisors = torch.where(divisors.abs() < SMALLEST_LOSS, SMALLEST_LOSS, divisors)
        (parts,) = derivatives(scalarization.GeometricMean(), divisors)
        state = LossesState(state.record + 1, losses, shares(parts, known))
        return state, state.weights


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
        for value in _numbers(self.preference):
            check_number("STCH.preference", value, above=0)
        for value in _numbers(self.reference):
            check_number("STCH.reference", value)

    def for_tasks(self, tasks: Sequence[str]) -> "STCH":
        """Put what is given by name into task order; see :meth:`Balancer.for_tasks`."""
        return replace(
            self,
            preference=_in_task_order("preference", self.preference, tasks),
            reference=_in_task_order("reference", self.reference, tasks),
        )

    def _first_state(self, num_tasks: int, device: torch.device) -> LossesState:
        for name in ("preference", "reference"):
            given = getattr(self, name)
            if given is not None and len(given) != num_tasks:
                raise ValueError(f"`STCH.{name}` must hold {num_tasks} numbers, one a task; got {given!r}.")
        return _nothing_seen(num_tasks, device)

    def update(self, state: LossesState, observation: Observation) -> tuple[LossesState, Tensor]:
        """Take one record; see :meth:`Balancer.update`."""
        losses = _last_losses(state, observation)
        known = losses.isfinite()
        preference, reference = torch.ones_like(losses), torch.zeros_like(losses)
        if self.preference is not None:
            preference = losses.new_tensor(_numbers(self.preference))
        if self.reference is not None:
            reference = losses.new_tensor(_numbers(self.reference))
        preference = preference / torch.where(known, preference, 0.0).sum()
        # -inf leaves a task out of the maximum.
        parts, *_ = derivatives(self._value, torch.where(known, losses, -torch.inf), preference, reference)
        state = LossesState(state.record + 1, losses, shares(parts, known))
        return state, state.weights

    def _value(self, losses: Tensor, preference: Tensor, reference: Tensor) -> Tensor:
        from torchjd import scalarization

        return scalarization.STCH(self.mu, preference, reference)(losses)


def _numbers(given: Mapping[str, float] | Sequence[float] | None) -> list[float]:
    """Return numbers that were given in task order or by name."""
    return list(given.values() if isinstance(given, Mapping) else given or ())


def _in_task_order(
    name: str, given: Mapping[str, float] | Sequence[float] | None, tasks: Sequence[str]
) -> Sequence[float] | None:
    if not isinstance(given, Mapping):
        return given
    if set(given) != set(tasks):
        raise ValueError(
            f"`STCH.{name}` must name every task once; got {sorted(given)}. The tasks are: {', '.join(tasks)}."
        )
    return tuple(float(given[task]) for task in tasks)


def _last_losses(state: LossesState, observation: Observation) -> Tensor:
    losses, present = training_losses(observation, like=state.losses)
    return torch.where(present, losses, state.losses)


def _nothing_seen(num_tasks: int, device: torch.device) -> LossesState:
    unknown = torch.full((num_tasks,), torch.nan, dtype=torch.float64, device=device)
    return LossesState(0, unknown, uniform(num_tasks, device))
