import lightning as L

from lightning_coba.balancing.step_budget import StepBudget
from lightning_coba.balancing.step_signals import HELD_OUT_SIGNALS, TRAINING_SIGNALS


class Cadence:
    """When a balancer gets its records: after validation passes, or every n optimizer steps.

    Args:
        needs: signals of the balancer; those of training steps need records of steps.
        every_n_steps: n; None = validation passes, or every step where the balancer needs training signals.
        max_overhead: instead of n, the share of the time that records may take; n is then measured.
    """

    def __init__(self, needs: frozenset[str], every_n_steps: int | None, max_overhead: float | None) -> None:
        self.needs = needs
        self.budget = None if max_overhead is None else StepBudget(max_overhead)
        self._every = 1 if every_n_steps is None and needs & TRAINING_SIGNALS else every_n_steps

    @property
    def interval(self) -> int | None:
        """Optimizer steps between two records; None = validation passes, or not measured yet."""
        return self._every if self.budget is None else self.budget.interval

    @property
    def by_steps(self) -> bool:
        """Whether records are of optimizer steps."""
        return self.budget is not None or self._every is not None

    @property
    def timing(self) -> bool:
        """Whether steps are being timed to find the interval; nothing is recorded until it is known."""
        return self.budget is not None and self.budget.interval is None

    @property
    def watches_steps(self) -> bool:
        """Whether the balancer works on what training steps do."""
        return bool(self.needs & TRAINING_SIGNALS)

    @property
    def reads_held_out_rows(self) -> bool:
        """Whether held-out mini-batches are measured between steps."""
        return self.by_steps and bool(self.needs & HELD_OUT_SIGNALS or not self.watches_steps)

    def begin_step(self, steps_before: int, module: L.LightningModule) -> bool:
        """Return whether the step that begins ends with a record, or is timed as if it did."""
        if self.timing:
            assert self.budget is not None
            return self.budget.begin_step(module)
        return self.interval is not None and (steps_before + 1) % self.interval == 0

    def is_logged(self, step: int, log_every_n_steps: int) -> bool:
        """Return whether loggers get the record of a step.

        Of records of training steps, which may be every step, only the first at or after each of the Trainer's log
        steps: loggers wait for the device.
        """
        assert self.interval is not None
        return not self.watches_steps or step % log_every_n_steps < self.interval

    def __str__(self) -> str:
        return f"every_n_steps={self._every}" if self.budget is None else f"max_overhead={self.budget.share}"
