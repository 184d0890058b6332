from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import Observation
from lightning_coba.balancers.checks import check_count, check_number
from lightning_coba.balancers.torchjd_adapter import LossBalancer, derivatives, shares, training_losses, uniform


class DWAState(NamedTuple):
    """The block of records under way and the means of the two before; float64 tensors on one device."""

    record: int
    sums: Tensor  # [K] of the losses in this block
    counts: Tensor  # [K] records of this block in which the task was present
    averages: Tensor  # [K, 2] mean losses of the task's last two blocks, the older first; NaN = not yet
    weights: Tensor  # [K] in force


@dataclass(frozen=True)
class DWA(LossBalancer):
    r"""Give more weight to tasks whose loss falls slowly: Dynamic Weight Average.

    Use it as the cheapest rule on speed, and as what CoBa is on held-out slopes instead of training losses. A record
    costs an addition.

    .. math::
        w_i = \mathrm{softmax}_i\big(r_i / T\big), \qquad r_i = \bar L_i(b-1) \,/\, \bar L_i(b-2)

    :math:`\bar L_i(b)` is task i's mean training loss over block b of records, T the temperature. The weights are
    uniform during the first two blocks and then constant within a block.

    Args:
        temperature: T > 0; larger is more uniform (paper: 2).
        block_records: records of a block (ours: 100). The paper's block is an epoch, of which fine-tuning has one to
            three; a hundred steps steady a mean and still leave a short run several blocks.

    Raises:
        ValueError: if an argument is outside its domain.

    Example:
        >>> from lightning_coba import replay
        >>> losses = [[1.0, 1.0], [0.9, 0.2], [0.9, 0.2]]  # the second task halves and halves again
        >>> replay(DWA(block_records=1), train_losses=losses)[1]
        tensor([0.5866, 0.4134], dtype=torch.float64)

    References:
        Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, equation for DWA; rule:
        torchjd 0.18, ``DWA``.

    **Differs from** the paper and torchjd:
        * blocks of records take the place of epochs.
        * weights sum to 1, not to K.
        * a task's mean is over the records in which it was present; a block without it leaves its two means as they
          are. Without two means, or where the older is 0, its weight is 1/K and the others share the rest.
        * sums, counts and means are in the checkpoint; torchjd's ``state_dict`` is empty.
    """

    temperature: float = 2.0
    block_records: int = 100

    def __post_init__(self) -> None:
        """Check the domains."""
        check_number("DWA.temperature", self.temperature, above=0)
        check_count("DWA.block_records", self.block_records)

    def _first_state(self, num_tasks: int, device: torch.device) -> DWAState:
        zeros = torch.zeros(num_tasks, dtype=torch.float64, device=device)
        averages = torch.full((num_tasks, 2), torch.nan, dtype=torch.float64, device=device)
        return DWAState(0, zeros, zeros.clone(), averages, uniform(num_tasks, device))

    def update(self, state: DWAState, observation: Observation) -> tuple[DWAState, Tensor]:
        """Take one record; see :meth:`Balancer.update`."""
        losses, present = training_losses(observation, like=state.sums)
        state = state._replace(
            record=state.record + 1,
            sums=state.sums + torch.where(present, losses, 0.0),
            counts=state.counts + present,
        )
        if state.record % self.block_records == 0:
            state = self._end_of_block(state)
        return state, state.weights

    def _end_of_block(self, state: DWAState) -> DWAState:
        from torchjd import scalarization

        rolled = torch.stack([state.averages[:, 1], state.sums / state.counts], dim=1)
        averages = torch.where((state.counts > 0)[:, None], rolled, state.averages)
        known = (averages[:, 1] / averages[:, 0]).isfinite()
        rule = scalarization.DWA(self.temperature)
        # An epoch of one step has that step's mean; -inf leaves a task out of the softmax.
        for average, absent in ((averages[:, 0], 1.0), (averages[:, 1], -torch.inf)):
            rule(torch.where(known, average, absent))
            rule.step()
        (parts,) = derivatives(rule, torch.zeros_like(state.sums))
        zeros = torch.zeros_like(state.sums)
        return state._replace(sums=zeros, counts=zeros.clone(), averages=averages, weights=shares(parts, known))
