import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import lightning as L
import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer
from lightning_coba.balancing import notices
from lightning_coba.balancing.cadence import Cadence
from lightning_coba.balancing.held_out import HeldOutStream
from lightning_coba.balancing.loss_sums import MeasuredLosses
from lightning_coba.errors import UserError


class Baseline:
    """Where V(0), each task's loss before training, comes from.

    Args:
        given: ``"measure"`` = a pass over all held-out rows before training, ``"first_record"``, or task -> loss.
        caller: Name of the callback, for what is said.
    """

    def __init__(self, given: Literal["measure", "first_record"] | Mapping[str, float], caller: str) -> None:
        self.given = given
        self.caller = caller
        self._measured: Tensor | None = None

    @contextmanager
    def whole_sanity_pass(self, trainer: L.Trainer) -> Iterator[None]:
        """Let Lightning's sanity pass run over all validation rows where V(0) is measured in it."""
        before = trainer.num_sanity_val_steps
        # 0 is the user's wish; what is infinite another balancer will put back.
        changed = self.given == "measure" and before not in (0, math.inf)
        if changed:
            trainer.num_sanity_val_steps = math.inf
        try:
            yield
        finally:
            if changed:
                trainer.num_sanity_val_steps = before

    def keep(self, measured: MeasuredLosses | None) -> None:
        """Keep what a sanity pass measured; None = nothing yet in this fit."""
        self._measured = None if measured is None else torch.where(measured.present, measured.losses, torch.nan)

    def initial(
        self,
        tasks: Sequence[str],
        balancer: Balancer,
        cadence: Cadence,
        stream: HeldOutStream | None,
        trainer: L.Trainer,
        module: L.LightningModule,
    ) -> Tensor | None:
        """Return V(0), ``[K]``; NaN or None = the first record in which the task is present.

        Raises:
            ValueError: A name that was given is no task.
        """
        if isinstance(self.given, Mapping):
            return _by_name(self.given, tasks)
        # Training losses are divided by the first of them; other methods on training steps divide by nothing.
        on_steps = cadence.by_steps and cadence.watches_steps and balancer.baseline_signal != "losses"
        if self.given == "first_record" or on_steps:
            return None
        if stream is not None and not trainer.fast_dev_run:
            self.keep(stream.measure(stream.everything(), trainer, module))
        if self._measured is None:
            notices.announce_first_record(self.caller, trainer)
        return self._measured


def _by_name(baseline: Mapping[str, float], tasks: Sequence[str]) -> Tensor:
    unknown = sorted(set(baseline) - set(tasks))
    if unknown:
        raise UserError(f"`baseline` names {unknown}; the tasks are: {', '.join(tasks)}.")
    return torch.tensor([float(baseline.get(task, torch.nan)) for task in tasks], dtype=torch.float64)
