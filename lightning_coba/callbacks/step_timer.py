import os
import platform
import time
from hashlib import sha256
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from lightning_coba.lightning_internals import hand_back_callbacks

#: Optimizer steps after a start that are not measured: kernels are chosen and memory is found in them.
WARMUP_STEPS = 2

hand_back_callbacks()


class StepTimer(L.Callback):
    """Measure what an optimizer step takes, with all that callbacks do in it, and what validation takes.

    A stretch of steps is measured as a whole: it ends where a validation pass, a checkpoint or the training begins or
    ends, and only there the device is waited for. The first two steps after a start or a resumption are left out. Put
    it behind the callbacks that are part of a step. Where the system tells how many processes want a core (the load
    average), that is kept too: times of a busy machine cannot be compared.

    Example:
        >>> StepTimer().timing
        {}
    """

    def __init__(self) -> None:
        # `steps` are those measured in `seconds`; the last step is that of the run.
        self._measured: dict[str, float] = {"steps": 0, "seconds": 0.0, "validation_seconds": 0.0, "last_step": 0}
        self._measured |= {"load_seconds": 0.0, "began": 0.0, "ended": 0.0}  # load x seconds; of the clock
        self._first_step = 0  # to measure after this start
        self._began: tuple[float, int] | None = None
        self._pass_began: float | None = None

    @property
    def timing(self) -> dict[str, Any]:
        """Return what was measured; empty before the first measured step.

        Returns:
            ``seconds_per_step`` (mean), ``steps`` of the run, ``validation_seconds`` of all its passes; ``began`` and
            ``ended`` (seconds since 1970); ``host``, a hash of its name; ``threads`` of the process; and ``load``, the
            mean load average while steps were timed, where the system tells it.
        """
        measured = self._measured
        if not measured["steps"]:
            return {}
        timing = {
            "seconds_per_step": measured["seconds"] / measured["steps"],
            "steps": measured["last_step"],
            "validation_seconds": measured["validation_seconds"],
            "began": measured["began"],
            "ended": measured["ended"],
            "host": sha256(platform.node().encode()).hexdigest()[:12],
            "threads": torch.get_num_threads(),
        }
        load = measured["load_seconds"] / measured["seconds"] if measured["seconds"] else 0.0
        return timing | ({"load": round(load, 2)} if load else {})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the warm-up."""
        self._first_step = trainer.global_step + WARMUP_STEPS
        self._began = None
        self._measured["began"] = self._measured["began"] or time.time()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a stretch where none is under way."""
        if self._began is None and trainer.global_step >= self._first_step:
            if trainer.global_step == self._first_step:
                _wait_for(pl_module)  # the warm-up's work; elsewhere the device was waited for just before
            self._began = time.perf_counter(), trainer.global_step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the stretch."""
        self._end_stretch(trainer, pl_module)
        self._pass_began = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the pass; the one before training is none of a run's own."""
        began, self._pass_began = self._pass_began, None
        if began is not None and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._measured["validation_seconds"] += time.perf_counter() - began

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """End the stretch; the checkpoint gets it, and writing is none of it."""
        self._end_stretch(trainer, pl_module)
        if self.state_key in checkpoint.get("callbacks", {}):
            checkpoint["callbacks"][self.state_key] = self.state_dict()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the last stretch."""
        self._end_stretch(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what was measured so far."""
        return dict(self._measured)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was measured before."""
        self._measured.update(state_dict)

    def handed_back(self) -> dict[str, Any]:
        """Return what was measured, for the process that started the ranks."""
        return self.state_dict()

    def take_back(self, trainer: L.Trainer, pl_module: L.LightningModule, state: dict[str, Any]) -> None:
        """Show it there."""
        self.load_state_dict(state)

    def _end_stretch(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._measured["last_step"] = trainer.global_step
        if self._began is None:
            return
        _wait_for(pl_module)
        (began, first), self._began = self._began, None
        seconds = time.perf_counter() - began
        self._measured["seconds"] += seconds
        self._measured["load_seconds"] += seconds * _load()
        self._measured["ended"] = time.time()
        self._measured["steps"] += trainer.global_step - first


def _load() -> float:
    """Return the load average of the last minute; 0 where the system does not tell it."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows; a container without /proc
        return 0.0


def _wait_for(pl_module: L.LightningModule) -> None:
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
