from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_coba.balancers.base import Observation
from lightning_coba.balancers.checks import check_count
from lightning_coba.balancers.constant import ConstantState
from lightning_coba.balancers.torchjd_adapter import LossBalancer, derivatives, drawing, uniform


@dataclass(frozen=True)
class RLW(LossBalancer):
    r"""Draw the weights anew at each step: random loss weighting.

    Use it as the baseline that a balancer must beat to show that it knows anything: the paper found it close to most
    of them. A record costs K draws.

    .. math::
        w = \mathrm{softmax}(z), \qquad z \sim N(0, I)

    Args:
        seed: seed of the draws (ours: 0). Draw t is a pure function of (seed, t): all ranks agree, a resume goes on
            with the same draws, and the global generators stay as they are.

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
