"""Whether all ranks have the same task weights, as they must: each computes them for itself."""

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor

from lightning_coba.errors import WrongUseError

#: The ranks compute the same from the same numbers; unlike devices may round the last digits differently.
TOLERANCE = 1e-6
_NAN = 1e6  # stands in for a weight that is NaN, which no maximum would show


class RankAgreement:
    """Compare the ranks' weights after each record, and raise on every rank where they differ.

    A comparison costs one all-reduce of 2K numbers, and does not wait for the device; `refuse_difference` does. With
    one process both do nothing.
    """

    def __init__(self) -> None:
        self._difference: Tensor | None = None  # the largest so far

    def compare(self, weights: Tensor, trainer: L.Trainer) -> None:
        """Note how far the ranks' weights ``[K]`` are apart; every rank has to ask."""
        if trainer.world_size == 1:
            return
        mine = weights.nan_to_num(nan=_NAN)
        largest, smallest = trainer.strategy.reduce(torch.cat([mine, -mine]), reduce_op="max").chunk(2)
        difference = (largest + smallest).amax()
        self._difference = difference if self._difference is None else torch.maximum(self._difference, difference)

    def refuse_difference(self, tasks: Sequence[str], weights: Tensor, trainer: L.Trainer) -> None:
        """Raise RuntimeError with every rank's weights if they have ever differed; every rank has to ask."""
        difference, self._difference = self._difference, None
        if difference is None or float(difference) <= TOLERANCE:
            return
        ranks = weights.new_zeros(trainer.world_size, len(weights))
        ranks[trainer.global_rank] = weights
        listed = "; ".join(
            f"rank {rank}: " + ", ".join(f"{task} {value:.6g}" for task, value in zip(tasks, values, strict=True))
            for rank, values in enumerate(trainer.strategy.reduce(ranks, reduce_op="sum").tolist())
        )
        raise WrongUseError(
            f"The ranks' task weights differ ({listed}).",
            "Resume from an earlier checkpoint. A custom balancer must use only the inputs that it gets.",
        )
