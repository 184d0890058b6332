import math
import time
from statistics import median

import lightning as L
import torch

#: Steps at the start that are not timed, and steps of either kind that are.
WARMUP_STEPS = 2
TIMED_STEPS = 6
#: Room for what is not timed: logging a record, and steps that differ.
MARGIN = 1.1


class StepBudget:
    """Finds how many optimizer steps must lie between two records, so that these cost no more than a share of the time.

    After a warm-up, steps with and without a record take turns (the record is measured and thrown away). From the
    medians follows n = cost of a record / (share x time of a step), with a tenth of room. The answer is of this machine
    and this moment: a checkpoint keeps it, so a resumed run goes on with it, but a run that is started again may find
    another.

    Args:
        share: of the training time, above 0.

    Attributes:
        interval: n, at least 1; None until it is known.
        step_seconds: median time of a step without a record; None until it is known.
        record_seconds: what a record adds to it.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.interval: int | None = None
        self.step_seconds: float | None = None
        self.record_seconds: float | None = None
        self._seconds: list[float] = []
        self._start = 0.0

    def begin_step(self, module: L.LightningModule) -> bool:
        """Start the clock; return whether the step that begins is to be timed with a record."""
        _wait_for(module)
        self._start = time.perf_counter()
        return self._with_record(len(self._seconds))

    @staticmethod
    def _with_record(number: int) -> bool:
        # The first record warms up too.
        return (number - WARMUP_STEPS) % 2 == 1

    def end_step(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop the clock; after the last timed step, settle ``interval``, the same on all ranks."""
        _wait_for(module)
        self._seconds.append(time.perf_counter() - self._start)
        if len(self._seconds) < WARMUP_STEPS + 2 * TIMED_STEPS:
            return
        timed = list(enumerate(self._seconds))[WARMUP_STEPS:]
        plain = median(seconds for number, seconds in timed if not self._with_record(number))
        with_record = median(seconds for number, seconds in timed if self._with_record(number))
        times = torch.tensor([plain, with_record], dtype=torch.float32, device=module.device)
        plain, with_record = trainer.strategy.reduce(times, reduce_op="mean").tolist()
        self.step_seconds, self.record_seconds = plain, max(with_record - plain, 0.0)
        self.interval = max(1, math.ceil(MARGIN * self.record_seconds / (self.share * plain)))


def _wait_for(module: L.LightningModule) -> None:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
