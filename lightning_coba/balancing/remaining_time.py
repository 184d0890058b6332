"""How long a fit still takes, validation passes included."""

import math
import time
from collections.abc import Callable

import lightning as L

from lightning_coba.balancing.run_length import expected_records, expected_steps


class RemainingTime:
    """Measure training and validation apart, and say what is left of both.

    Args:
        now: Clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._pass_began = self._train_began = now()
        self._pass_seconds, self._pass_batches = 0.0, 0
        self._paused = 0.0  # by passes, since training began
        self._first_step = 0
        self._passes_left: float = 0
        self._left: tuple[float, float] | None = None  # seconds, and when that was said

    def begin_training(self, trainer: L.Trainer) -> None:
        """Begin to count optimizer steps: a resumed fit begins at another step than the first."""
        self._train_began, self._paused, self._first_step = self._now(), 0.0, trainer.global_step
        self._left = None
        self._passes_left = expected_records(trainer, None)

    def begin_pass(self) -> None:
        """Stop the clock of training."""
        self._pass_began = self._now()

    def end_pass(self, trainer: L.Trainer, batches: int) -> None:
        """Go on with it.

        Args:
            trainer: The Trainer that fits.
            batches: How many the pass had: that before training may have fewer.
        """
        took = self._now() - self._pass_began
        self._pass_seconds += took
        self._pass_batches += batches
        if not trainer.sanity_checking:
            self._paused += took
            self._passes_left = expected_records(trainer, None)
            self.end_step(trainer)

    def end_step(self, trainer: L.Trainer) -> None:
        """Estimate anew what is left."""
        now, done = self._now(), trainer.global_step - self._first_step
        if done <= 0:
            return
        step = (now - self._train_began - self._paused) / done
        batch = self._pass_seconds / self._pass_batches if self._pass_batches else 0.0
        one_pass = batch * sum(trainer.num_val_batches)
        passes = self._passes_left * one_pass if one_pass else 0.0
        self._left = expected_steps(trainer) * step + passes, now

    @property
    def seconds(self) -> float | None:
        """Seconds to the end of the fit; None where that is not known."""
        if self._left is None or not math.isfinite(self._left[0]):
            return None
        left, said = self._left
        return max(0.0, left - (self._now() - said))
