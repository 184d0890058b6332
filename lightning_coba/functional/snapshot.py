"""A copy of trained weights and of what optimizers remember of them, to go back to."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Snapshot:
    """Hold one copy, on the device where weights and state are.

    Learning rates and other settings of the optimizers are no part of it: a schedule goes on.

    Attributes:
        step: Optimizer step after which the copy was taken.

    Example:
        >>> line = nn.Linear(1, 1)
        >>> snapshot, before = Snapshot(), line.weight.item()
        >>> snapshot.take(line, [], step=7)
        >>> _ = nn.init.zeros_(line.weight)
        >>> snapshot.put_back(line, [])
        >>> line.weight.item() == before
        True
    """

    def __init__(self) -> None:
        self.step = 0
        self._weights: dict[str, Tensor] = {}
        self._optimizers: list[dict[Any, Any]] = []

    @property
    def is_there(self) -> bool:
        """Whether a copy was taken."""
        return bool(self._weights)

    def take(self, module: nn.Module, optimizers: Sequence[Optimizer], step: int) -> None:
        """Copy the weights and the state as they are now, in the place of an earlier copy."""
        self.step = step
        self._weights = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
        self._optimizers = [_copy(optimizer.state_dict()["state"]) for optimizer in optimizers]

    @torch.no_grad()
    def put_back(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Give weights and optimizers what was copied."""
        parameters = dict(module.named_parameters())
        for name, value in self._weights.items():
            parameters[name].copy_(value)
        for optimizer, state in zip(optimizers, self._optimizers, strict=True):
            # A copy again: the optimizer would go on in the tensors that it is given.
            optimizer.load_state_dict(optimizer.state_dict() | {"state": _copy(state)})

    def state_dict(self) -> dict[str, Any]:
        """Return dicts, lists, tensors and numbers only: Lightning loads with ``weights_only=True``."""
        return {"step": self.step, "weights": dict(self._weights), "optimizers": list(self._optimizers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a copy that was saved."""
        self.step, self._weights = state["step"], dict(state["weights"])
        self._optimizers = list(state["optimizers"])


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return {key: _copy(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value
