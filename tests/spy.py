"""A balancer that keeps uniform weights and remembers everything it is shown."""

from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_coba.balancers import Balancer
from lightning_coba.balancers.base import constant_state


@dataclass(frozen=True)
class Spy(Balancer):
    signals: tuple[str, ...]
    look_ahead_lr: float = 0.1
    seen: list[Any] = field(default_factory=list, repr=False, compare=False)

    @property
    def needs(self):
        return frozenset(self.signals)

    def init(self, num_tasks, initial=None, device=None):
        return constant_state([1.0] * num_tasks, num_tasks, device)

    def update(self, state, observation):
        self.seen.append(observation)
        return state._replace(record=state.record + 1), state.weights

    def admit(self, state, columns):
        return self.init(len(columns))._replace(record=state.record)

    def column(self, name):
        return torch.stack([getattr(observation, name) for observation in self.seen])
