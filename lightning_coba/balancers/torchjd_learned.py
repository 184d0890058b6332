"""Methods that learn one number a task beside the model."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import Observation
from lightning_coba.balancers.checks import check_number
from lightning_coba.balancers.torchjd_adapter import LossBalancer, derivatives, shares, training_losses, uniform
from lightning_coba.functional import adam_step


class LearnedState(NamedTuple):
    """The learned numbers and Adam's memory of them; float64 tensors on one device."""

    record: int
    values: Tensor  # [K] s
    exp_avg: Tensor  # [K] moments and step counts of Adam on s
    exp_avg_sq: Tensor  # [K]
    num_steps: Tensor  # [K] records in which the task was present
    weights: Tensor  # [K] in force


class LearnedBalancer(LossBalancer):
    """A method that minimises its value over one number s a task, by an Adam of its own.

    Abstract with behaviour, as :class:`~lightning_coba.balancers.torchjd_adapter.TorchJDBalancer`.
    """

    lr: float

    @abstractmethod
    def _value(self, losses: Tensor, values: Tensor) -> Tensor:
        """Return what is minimised, for losses and s ``[K]``."""

    def _first_state(self, num_tasks: int, device: torch.device) -> LearnedState:
        zeros = torch.zeros(num_tasks, dtype=torch.float64, device=device)
        return LearnedState(0, zeros, zeros.clone(), zeros.clone(), zeros.clone(), uniform(num_tasks, device))

    def update(self, state: LearnedState, observation: Observation) -> tuple[LearnedState, Tensor]:
        """Take one record: a step of Adam on s, and the weights at the new s. See :meth:`Balancer.update`."""
        losses, present = training_losses(observation, like=state.values)
        losses = torch.where(present, losses, 0.0)
        _, gradient = derivatives(self._value, losses, state.values)
        learned = adam_step(
            state.values, gradient, state.exp_avg, state.exp_avg_sq, state.num_steps, lr=self.lr, active=present
        )
        parts, _ = derivatives(self._value, losses, learned[0])
        state = LearnedState(state.record + 1, *learned, shares(parts, known=learned[-1] > 0))
        return state, state.weights


@dataclass(frozen=True)
class UW(LearnedBalancer):
    r"""Weight each task by the inverse of a learned variance: uncertainty weighting.

    Use it where losses differ in size or noise; it is the classic learned weighting and needs no held-out data. A
    record costs some dozen operations on K numbers, no extra pass.

    .. math::
        \min_s \sum_i \tfrac12 e^{-s_i} L_i + \tfrac12 s_i, \qquad w_i = \frac{e^{-s_i}}{\sum_j e^{-s_j}}

    :math:`s_i = \log\sigma_i^2` is task i's learned log-variance, 0 at first, and :math:`L_i` its training loss. At
    the optimum :math:`e^{-s_i} = 1/L_i`: tasks with a small loss end up with a large weight.

    Args:
        lr: of Adam on s (ours: 0.025, as of the other learned weights here; the paper learns s with the model's
            optimizer and gives no rate of its own).

    Raises:
        ValueError: if ``lr`` is not a finite number > 0.

    Example:
        >>> from lightning_coba import replay
        >>> weights = replay(UW(), train_losses=[[2.0, 0.5]] * 200)
        >>> bool(weights[-1, 1] > 0.75)  # towards (1/2, 2) / 2.5
        True

    References:
        Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
        Semantics", CVPR 2018; rule: torchjd 0.18, ``UW``.

    **Differs from** the paper and torchjd:
        * s has its own Adam (betas 0.9 and 0.999) without weight decay, whose moments are in the checkpoint; the
          model's optimizer would decay and clip s with its parameters, and would have to know of s before a resume.
        * weights sum to 1: the sum of :math:`e^{-s_i}`, free in the paper, would change the model's learning rate.
        * record t's weights, at the new s, act from the next optimizer step on; in the paper from the same.
        * an absent task (mask, NaN, inf) leaves its s and moments as they are; one never seen has the weight 1/K.
        * one form for all tasks, with the 1/2 of regression; the paper drops it for classification.
    """

    lr: float = 0.025

    def __post_init__(self) -> None:
        """Check the domain."""
        check_number("UW.lr", self.lr, above=0)

    def _value(self, losses: Tensor, values: Tensor) -> Tensor:
        from torchjd import scalarization

        return torch.func.functional_call(scalarization.UW(len(losses)), {"log_var": values}, (losses,))


@dataclass(frozen=True)
class IMTLL(LearnedBalancer):
    r"""Scale each task's loss by a learned factor, so that scaled losses become equal: the loss half of IMTL.

    Use it like :class:`UW`, with which it shares the optimum (its s is the negative, its gradient twice as large).
    A record costs some dozen operations on K numbers, no extra pass.

    .. math::
        \min_s \sum_i e^{s_i} L_i - s_i, \qquad w_i = \frac{e^{s_i}}{\sum_j e^{s_j}}

    :math:`s_i` is task i's learned scale, 0 at first, and :math:`L_i` its training loss. At the optimum
    :math:`e^{s_i} L_i = 1` for every task.

    Args:
        lr: of Adam on s (ours: 0.025, as of the other learned weights here; the paper learns s with the model's
            optimizer and gives no rate of its own).

    Raises:
        ValueError: if ``lr`` is not a finite number > 0.

    Example:
        >>> from lightning_coba import replay
        >>> weights = replay(IMTLL(), train_losses=[[2.0, 0.5]] * 200)
        >>> bool(weights[-1, 1] > 0.75)  # towards (1/2, 2) / 2.5
        True

    References:
        Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, the loss balance; rule: torchjd 0.18,
        ``IMTLL``.

    **Differs from** the paper and torchjd:
        * s has its own Adam (betas 0.9 and 0.999) without weight decay, whose moments are in the checkpoint.
        * weights sum to 1: the sum of :math:`e^{s_i}`, free in the paper, would change the model's learning rate.
        * record t's weights, at the new s, act from the next optimizer step on; in the paper from the same.
        * an absent task (mask, NaN, inf) leaves its s and moments as they are; one never seen has the weight 1/K.
        * alone: the paper puts it before the gradient balance, which is
          :class:`~lightning_coba.balancers.IMTLG`.
    """

    lr: float = 0.025

    def __post_init__(self) -> None:
        """Check the domain."""
        check_number("IMTLL.lr", self.lr, above=0)

    def _value(self, losses: Tensor, values: Tensor) -> Tensor:
        from torchjd import scalarization

        return torch.func.functional_call(scalarization.IMTLL(len(losses)), {"log_scale": values}, (losses,))
