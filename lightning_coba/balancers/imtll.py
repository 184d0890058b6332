from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_coba.balancers.base import Observation
from lightning_coba.balancers.checks import check_number
from lightning_coba.balancers.torchjd_adapter import LearnedState, LossBalancer, learn, nothing_learned


@dataclass(frozen=True)
class IMTLL(LossBalancer):
    r"""Scale each task's loss by a learned factor, so that scaled losses become equal: the loss half of IMTL.

    Use it like :class:`~lightning_coba.balancers.UW`, with which it shares the optimum (its s is the negative, its
    gradient twice as large). A record costs some dozen operations on K numbers, no extra pass.

    .. math::
        \min_s \sum_i e^{s_i} L_i - s_i, \qquad w_i = \frac{e^{s_i}}{\sum_j e^{s_j}}

    :math:`s_i` is task i's learned scale, 0 at first, and :math:`L_i` its training loss. At the optimum
    :math:`e^{s_i} L_i = 1` for every task.

    Args:
        lr: learning rate of Adam on s (ours: 0.025, as for the other learned weights here; the paper learns s with the
            model's optimizer and gives no rate of its own).

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

    def _first_state(self, num_tasks: int, device: torch.device) -> LearnedState:
        return nothing_learned(num_tasks, device)

    def update(self, state: LearnedState, observation: Observation) -> tuple[LearnedState, Tensor]:
        """Take one record: a step of Adam on s, and the weights at the new s. See :meth:`Balancer.update`."""
        from torchjd import scalarization

        return learn(state, observation, scalarization.IMTLL, "log_scale", self.lr)
