from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, Observation, Source, check_num_tasks, float64_device
from lightning_coba.balancers.baseline import Baseline, unknown_baseline, with_record
from lightning_coba.balancers.checks import check_count, check_number, check_source
from lightning_coba.functional import adam_step

#: A weight that a step made smaller is set to this, before the weights are rescaled to sum K.
MIN_WEIGHT = 1e-3


class GradNormState(NamedTuple):
    """What GradNorm knows after ``record`` records; float64 tensors on one device."""

    record: int
    initial: Tensor  # [K] L(0); NaN until a task's first present record
    initial_records: Tensor  # [K] records that L(0) is the mean of
    exp_avg: Tensor  # [K] moments and step counts of Adam on w
    exp_avg_sq: Tensor  # [K]
    num_steps: Tensor  # [K]
    loss_ratio: Tensor  # [K] of the last record, NaN where absent
    weights: Tensor  # [K] w / K


@dataclass(frozen=True)
class GradNorm(Balancer):
    r"""Pull the tasks' gradient norms to one level, higher for tasks that train slowly.

    Use it where tasks differ in the size of their gradients. It needs each task's gradient norm on a few shared
    parameters: K partial backward passes per record, cheap where these are the last block's; the update itself is a
    handful of operations on K numbers. No double backward: the target is a constant, so the loss below has the
    derivative :math:`\mathrm{sign}(w_i g_i - T_i)\,g_i`.

    .. math::
        \min_w \sum_i |w_i g_i - T_i|, \qquad T_i = \overline{w g}\; \rho_i^\alpha, \qquad
        \rho_i = \frac{L_i(t)/L_i(0)}{\overline{L(t)/L(0)}}

    g_i is the norm of task i's unweighted gradient, L_i its loss, a bar the mean over the tasks. One step of Adam, then
    w is rescaled to sum K.

    Args:
        alpha: :math:`\alpha \ge 0`, how strongly slow tasks are pulled up; 0 = equal norms (paper: 0.12 to 1.5 by task;
            1.5 as in LibMTL).
        lr: learning rate of Adam on w (paper: 0.025).
        source: of the losses in :math:`\rho`: ``"train"`` as published; ``"held_out"`` = GradNorm*. Gradients are those
            of the training step in both.
        initial_records: L(0) is the mean of a task's first records, this many (1: the paper).

    Raises:
        ValueError: if an argument is outside its domain.

    Example:
        >>> from lightning_coba import replay
        >>> same = [[1.0, 1.0]] * 3
        >>> replay(GradNorm(), train_losses=same, grad_norms=[[4.0, 1.0]] * 3)[-1]  # the second gains
        tensor([0.4625, 0.5375], dtype=torch.float64)

    References:
        Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML
        2018 (arXiv 1711.02257), Algorithm 1 and equations 1 and 2.

    **Differs from** the paper and from LibMTL:
        * weights sum to 1 where they act, w / K.
        * gradients are of the trainable parameters of the last block (``parameters`` of the callback): the paper's last
          shared layer. LibMTL takes all shared parameters.
        * w has an Adam of its own with lr 0.025; LibMTL trains a softmax of logits with the model's optimizer.
        * a w below 1e-3 after a step is set to 1e-3: the paper does not say what happens at 0.
        * a task that is absent from the step is left out of both means and of Adam's step; its w changes by the
          rescaling alone.
    """

    alpha: float = 1.5
    lr: float = 0.025
    source: Source = "train"
    initial_records: int = 1

    def __post_init__(self) -> None:
        """Check the domains."""
        check_number("GradNorm.alpha", self.alpha, at_least=0)
        check_number("GradNorm.lr", self.lr, above=0)
        check_source("GradNorm.source", self.source)
        check_count("GradNorm.initial_records", self.initial_records)

    @property
    def needs(self) -> frozenset[str]:
        """Gradient norms, and the losses that ``source`` names."""
        return frozenset({"grad_norms", self.baseline_signal})

    @property
    def baseline_signal(self) -> str:
        """The losses, which are divided by their first value."""
        return "train_losses" if self.source == "train" else "losses"

    def init(
        self, num_tasks: int, initial: Tensor | None = None, device: torch.device | str | None = None
    ) -> GradNormState:
        """Return the state before the first record; see :meth:`Balancer.init`."""
        check_num_tasks(num_tasks)
        device = float64_device(device)
        baseline = unknown_baseline(initial, num_tasks, device, self.initial_records)
        zeros = torch.zeros(num_tasks, dtype=torch.float64, device=device)
        return GradNormState(
            record=0,
            initial=baseline.losses,
            initial_records=baseline.records,
            exp_avg=zeros,
            exp_avg_sq=zeros.clone(),
            num_steps=zeros.clone(),
            loss_ratio=zeros + torch.nan,
            weights=zeros + 1 / num_tasks,
        )

    def update(self, state: GradNormState, observation: Observation) -> tuple[GradNormState, Tensor]:
        """Take one record; see :meth:`Balancer.update`."""
        assert observation.grad_norms is not None
        norms = observation.grad_norms.detach().to(state.weights)
        losses = getattr(observation, self.baseline_signal).detach().to(state.weights)
        present = observation.present.to(norms.device) & losses.isfinite() & norms.isfinite()
        baseline = Baseline(state.initial, state.initial_records)
        baseline = with_record(baseline, losses, present, self.initial_records)
        present = present & ~baseline.losses.isnan()
        ratio = torch.where(present, losses / baseline.losses, torch.nan)
        num_tasks = len(norms)
        scaled = state.weights * num_tasks
        weighted = scaled * norms
        mean_ratio = _mean(ratio, present)
        pace = torch.where(mean_ratio > 0, ratio / mean_ratio, 1.0).clamp(min=0)
        target = _mean(weighted, present) * pace**self.alpha
        gradient = torch.where(present, (weighted - target).sign() * norms, 0.0)
        scaled, exp_avg, exp_avg_sq, num_steps = adam_step(
            scaled, gradient, state.exp_avg, state.exp_avg_sq, state.num_steps, lr=self.lr, active=present
        )
        scaled = torch.where(present, scaled.clamp(min=MIN_WEIGHT), scaled)
        weights = scaled / scaled.sum()
        state = GradNormState(
            record=state.record + 1,
            initial=baseline.losses,
            initial_records=baseline.records,
            exp_avg=exp_avg,
            exp_avg_sq=exp_avg_sq,
            num_steps=num_steps,
            loss_ratio=ratio,
            weights=weights,
        )
        return state, weights


def _mean(values: Tensor, present: Tensor) -> Tensor:
    return torch.where(present, values, 0.0).sum() / present.sum().clamp(min=1)
