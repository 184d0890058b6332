import lightning as L

from lightning_coba.balancers.base import Balancer
from lightning_coba.balancing.publish import is_log_step
from lightning_coba.balancing.step_budget import StepBudget
from lightning_coba.balancing.step_signals import HELD_OUT_SIGNALS, TRAINING_SIGNALS
from lightning_coba.errors import UserError


class Cadence:
    """When a balancer gets its records: after validation passes, or every n optimizer steps.

    Args:
        balancer: The balancer; its ``needs`` and ``cadence`` decide where n is not given.
        every_n_steps: n; None = what the balancer says, see :attr:`~lightning_coba.balancers.base.Balancer.cadence`.
        max_overhead: Instead of n, the share of the time that records may take; n is then measured.

    Raises:
        ValueError: The balancer needs signals that a validation pass cannot bring.
    """

    def __init__(self, balancer: Balancer, every_n_steps: int | None, max_overhead: float | None) -> None:
        self.needs = balancer.needs
        self.budget = None if max_overhead is None else StepBudget(max_overhead)
        default = balancer.cadence or ("steps" if self.needs & TRAINING_SIGNALS else "validation")
        self._every = 1 if every_n_steps is None and default == "steps" else every_n_steps
        if not self.by_steps and self.needs & TRAINING_SIGNALS and self.needs != {"losses", "train_losses"}:
            raise UserError(
                f"`{type(balancer).__name__}.cadence` must be None or 'steps' for a balancer that needs "
                f"{', '.join(sorted(self.needs))}; got {balancer.cadence!r}.",
                "A validation pass brings held-out losses and, beside them, training losses alone. Set "
                "`every_n_steps` where the class cannot be changed.",
            )

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
    def adds_up_steps(self) -> bool:
        """Whether a record has the training losses of all steps since the last one."""
        return self.watches_steps and not self.by_steps

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

    def is_logged(self, trainer: L.Trainer, step: int) -> bool:
        """Return whether loggers get the record of a step.

        Of records of training steps, which may be every step, only the first at or after each of the Trainer's log
        steps: loggers wait for the device.
        """
        if not self.by_steps:
            return True
        if not self.watches_steps:
            return trainer.log_every_n_steps > 0
        assert self.interval is not None
        return is_log_step(trainer, step, self.interval)

    def __str__(self) -> str:
        return f"every_n_steps={self._every}" if self.budget is None else f"max_overhead={self.budget.share}"
