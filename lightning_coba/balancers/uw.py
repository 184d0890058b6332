from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_coba.balancers.base import Observation
from lightning_coba.balancers.checks import check_number
from lightning_coba.balancers.torchjd_adapter import LearnedState, LossBalancer, learn, nothing_learned


@dataclass(frozen=True)
class UW(LossBalancer):
    r"""Weight each task by the inverse of a learned variance: uncertainty weighting.

    Use it where losses differ in size or noise; it is the classic learned weighting and needs no held-out data. A
    record costs some dozen operations on K numbers, no extra pass.

    .. math::
        \min_s \sum_i \tfrac12 e^{-s_i} L_i + \tfrac12 s_i, \qquad w_i = \frac{e^{-s_i}}{\sum_j e^{-s_j}}

    :math:`s_i = \log\sigma_i^2` is task i's learned log-variance, 0 at first, and :math:`L_i` its training loss. At
    the optimum :math:`e^{-s_i} = 1/L_i`: tasks with a small loss end up with a large weight.

    Args:
        lr: learning rate of Adam on s (ours: 0.025, as for the other learned weights here; the paper learns s with the
            model's optimizer and gives no rate of its own).

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

    def _first_state(self, num_tasks: int, device: torch.device) -> LearnedState:
        return nothing_learned(num_tasks, device)

    def update(self, state: LearnedState, observation: Observation) -> tuple[LearnedState, Tensor]:
        """Take one record: a step of Adam on s, and the weights at the new s. See :meth:`Balancer.update`."""
        from torchjd import scalarization

        return learn(state, observation, scalarization.UW, "log_var", self.lr)
