"""Clocks of CPU time a step. The first step of every run pays for caches and is not counted."""

import time
from typing import Any

import lightning as L
from transformers import TrainerCallback


class Clock:
    """CPU time at the end of every step, without what runs between steps and is paid for apart."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.apart = 0.0
        self._since = 0.0

    def tick(self) -> None:
        """Note the end of a step."""
        self.marks.append(time.process_time() - self.apart)

    def pause(self) -> None:
        """Begin something that is no part of a step."""
        self._since = time.process_time()

    def go_on(self) -> None:
        """End it."""
        if self.marks:  # before the first step there is nothing to take it from
            self.apart += time.process_time() - self._since

    @property
    def seconds_per_step(self) -> float:
        """Mean over all steps but the first."""
        return (self.marks[-1] - self.marks[0]) / (len(self.marks) - 1)


class LightningClock(L.Callback):
    """A clock for Lightning; list it last, so that the balancer's work in a validation pass is part of the pass."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the end of a step."""
        self.clock.tick()

    def on_validation_start(self, *_: Any) -> None:
        """Begin a pass."""
        self.clock.pause()

    def on_validation_end(self, *_: Any) -> None:
        """End a pass."""
        self.clock.go_on()


class HuggingFaceClock(TrainerCallback):
    """A clock for trainers of transformers."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the end of a step."""
        self.clock.tick()
