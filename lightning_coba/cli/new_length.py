"""A fit that goes on with another length than it had: its learning rate and early stopping follow the new one."""

import copy
import warnings
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau


class NewLength(L.Callback):
    """Let a fit whose length was changed go on as if it had been planned with that length.

    - The learning rate follows the schedule of the new length, from the step that was reached: a cosine that had come
      down to 0 goes on where a cosine over the new length would be. A schedule that depends on what was measured
      (`ReduceLROnPlateau`) goes on as it was.
    - Early stopping that had ended the fit waits again as long as it is configured to. Where the length is the same, a
      fit that was killed behind its early end does not go on.

    A checkpoint keeps the length that was planned when it was written, so that a fit that is killed before the first
    checkpoint of its new length goes on in the same way.
    """

    def __init__(self) -> None:
        self._length: dict[str, int | None] = {}
        self._saved: dict[str, Any] | None = None  # the length in the checkpoint
        self._patience: dict[EarlyStopping, int] = {}
        self._fresh: dict[LRScheduler, tuple[dict[str, Any], list[dict[str, Any]]]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the planned length."""
        return dict(self._length)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the length that was planned before."""
        self._saved = dict(state_dict)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember what early stopping is configured to: a checkpoint brings the patience that it had."""
        self._length = {"max_steps": trainer.max_steps, "max_epochs": trainer.max_epochs}
        self._patience = {stop: stop.patience for stop in _early_stopping(trainer)}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the schedules and what they set, as they are before a checkpoint is loaded into them."""
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
                groups = [
                    {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
                    for group in scheduler.optimizer.param_groups
                ]
                self._fresh[scheduler] = copy.deepcopy(scheduler.state_dict()), groups

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Adapt what depends on the length."""
        if self._saved is None:
            return  # it begins
        is_new = self._saved != self._length
        for stop, patience in self._patience.items():
            stop.patience = patience
            if stop.wait_count >= patience:  # it has ended the fit
                if is_new:
                    stop.wait_count = 0
                else:
                    trainer.should_stop = True
        if is_new:
            if trainer.is_global_zero:
                said = f"Its length is now {_typed(self._length)}; it was {_typed(self._saved)}."
                more = " The learning rate follows the schedule of the new length." if self._fresh else ""
                Console().print(said + more, soft_wrap=True, highlight=False, markup=False)
            for scheduler, (state, groups) in self._fresh.items():
                _replay(scheduler, state, groups)


def _replay(scheduler: LRScheduler, state: dict[str, Any], groups: list[dict[str, Any]]) -> None:
    """Begin a schedule again, and take it to the step that it had reached."""
    reached = scheduler.last_epoch
    scheduler.load_state_dict(state)
    for group, values in zip(scheduler.optimizer.param_groups, groups, strict=True):
        group.update(values)
    with warnings.catch_warnings():
        # The optimizer's steps were made by an earlier process.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        for _ in range(reached):
            scheduler.step()


def _early_stopping(trainer: L.Trainer) -> list[EarlyStopping]:
    return [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]


def _typed(length: dict[str, Any]) -> str:
    """Return a length as it is typed."""
    return " ".join(f"trainer.{key}={value}" for key, value in length.items() if value not in (None, -1)) or "no end"
