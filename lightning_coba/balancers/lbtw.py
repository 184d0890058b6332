from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, Observation, Source, check_num_tasks, float64_device
from lightning_coba.balancers.baseline import Baseline, unknown_baseline, with_record
from lightning_coba.balancers.checks import check_count, check_number, check_source


class LBTWState(NamedTuple):
    """What LBTW knows after ``record`` records; float64 tensors on one device."""

    record: int
    epoch: int  # of the last record; -1 before the first
    initial: Tensor  # [K] L(0); NaN until a task's first present record
    initial_records: Tensor  # [K] records that L(0) is the mean of
    loss_ratio: Tensor  # [K] last known L / L(0); 1 before a task was seen
    weights: Tensor  # [K] in force


@dataclass(frozen=True)
class LBTW(Balancer):
    r"""Weigh each task by how much of its first loss is left: Loss-Balanced Task Weighting.

    Use it as the cheapest baseline that reacts to training at all. It needs training losses only, no optimizer and no
    further pass; an update is a handful of operations on K numbers.

    .. math::
        w_i = \frac{(L_i(t)/L_i(0))^\alpha}{\sum_j (L_j(t)/L_j(0))^\alpha}

    L_i(t) is task i's loss in record t, L_i(0) its loss in its first record. A task that has come down less gets more.

    Args:
        alpha: :math:`\alpha \ge 0`, how strongly slow tasks are favoured; 0 = uniform (0.5: the authors' settings).
        source: ``"train"`` = the losses of the training steps, as published; ``"held_out"`` = held-out losses, LBTW*.
        initial_records: L(0) is the mean of a task's first records, this many (1: the paper). More make it steadier.
        reset_each_epoch: whether L(0) is taken anew in every epoch, as the authors' code does.

    Raises:
        ValueError: if an argument is outside its domain.

    Example:
        >>> from lightning_coba import replay
        >>> replay(LBTW(), train_losses=[[2.0, 1.0], [1.28, 0.16]])[-1]  # ratios 0.64 and 0.16
        tensor([0.6667, 0.3333], dtype=torch.float64)

    References:
        Liu, Liang and Gitter, "Loss-Balanced Task Weighting to Reduce Negative Transfer in Multi-Task Learning",
        AAAI-SA 2019, Algorithm 1.

    **Differs from** the paper and its code:
        * weights sum to 1, not to K.
        * record t's weights act from the next optimizer step on, not on the step whose losses made them; losses are
          those of the whole step, over all micro-batches and ranks.
        * L(0) stays that of the first record; the code takes it anew in each epoch (``reset_each_epoch=True``).
        * a task that is absent from a record keeps its last ratio (1 before it was seen), since it may be back in the
          next step; the code has no absent tasks.
        * LBTW* follows the description of CoBa's authors, who publish no code for it.
    """

    alpha: float = 0.5
    source: Source = "train"
    initial_records: int = 1
    reset_each_epoch: bool = False

    def __post_init__(self) -> None:
        """Check the domains."""
        check_number("LBTW.alpha", self.alpha, at_least=0)
        check_source("LBTW.source", self.source)
        check_count("LBTW.initial_records", self.initial_records)

    @property
    def needs(self) -> frozenset[str]:
        """The losses that ``source`` names."""
        return frozenset({self.baseline_signal})

    @property
    def baseline_signal(self) -> str:
        """The same: they are divided by their first value."""
        return "train_losses" if self.source == "train" else "losses"

    def init(
        self, num_tasks: int, initial: Tensor | None = None, device: torch.device | str | None = None
    ) -> LBTWState:
        """Return the state before the first record; see :meth:`Balancer.init`."""
        check_num_tasks(num_tasks)
        device = float64_device(device)
        baseline = unknown_baseline(initial, num_tasks, device, self.initial_records)
        ones = torch.ones(num_tasks, dtype=torch.float64, device=device)
        return LBTWState(0, -1, baseline.losses, baseline.records, loss_ratio=ones, weights=ones / num_tasks)

    def update(self, state: LBTWState, observation: Observation) -> tuple[LBTWState, Tensor]:
        """Take one record; see :meth:`Balancer.update`."""
        given = getattr(observation, self.baseline_signal)
        losses = given.detach().to(state.weights)
        present = observation.present.to(losses.device) & losses.isfinite()
        baseline = Baseline(state.initial, state.initial_records)
        if self.reset_each_epoch and state.epoch not in (-1, observation.epoch):
            baseline = Baseline(torch.full_like(losses, torch.nan), torch.zeros_like(losses))
        baseline = with_record(baseline, losses, present, self.initial_records)
        # A negative loss has no fractional power.
        ratio = (losses / baseline.losses).clamp(min=0)
        ratio = torch.where(present & ~baseline.losses.isnan(), ratio, state.loss_ratio)
        powers = ratio**self.alpha
        total = powers.sum()
        weights = torch.where(total > 0, powers / total, 1 / len(powers))
        state = LBTWState(state.record + 1, observation.epoch, *baseline, loss_ratio=ratio, weights=weights)
        return state, weights
