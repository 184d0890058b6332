from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_coba.log_keys import BALANCE, TRAIN_LOSS, VAL_LOSS, task_key
from lightning_coba.modules.task_weights import TaskWeights


class TaskProgressBar(RichProgressBar):
    """Rich progress bar, with a line above it after each validation pass: every task's loss and weight.

    A part of the line reads ``de 2.55·w.17``: validation loss 2.55, weight 0.17. Where the output is no terminal (a log
    file) a bar cannot be redrawn, and a plain line takes its place each time the Trainer logs.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"leave": True, **options})
        self._said = ""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the loss; the tasks would not fit beside a bar."""
        loss = trainer.callback_metrics.get(TRAIN_LOSS)
        return {} if loss is None else {"loss": round(float(loss), 3)}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how the tasks stand."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._say(trainer, f"validated  {_tasks_line(trainer.callback_metrics, _task_names(pl_module))}")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Where there is no bar, write the loss: here, since a module logs it after the callbacks' batch end."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        due = trainer.global_step and trainer.global_step % trainer.log_every_n_steps == 0
        if self._console is not None and self._console.is_terminal:
            return
        if due and TRAIN_LOSS in trainer.callback_metrics:
            self._say(trainer, f"train_loss {float(trainer.callback_metrics[TRAIN_LOSS]):.3f}")

    def _say(self, trainer: L.Trainer, text: str) -> None:
        console = self._console
        if console is None or not trainer.is_global_zero:
            return
        end = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
        line = f"step {trainer.global_step}{end}  {text}"
        if line != self._said:
            self._said = line
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _task_names(pl_module: L.LightningModule) -> Sequence[str]:
    for child in pl_module.children():
        if isinstance(child, TaskWeights):
            return child.tasks
    return ()


def _tasks_line(metrics: Mapping[str, Tensor], tasks: Sequence[str]) -> str:
    parts = []
    for task in tasks:
        loss, weight = metrics.get(task_key(VAL_LOSS, task)), metrics.get(task_key(f"{BALANCE}/weight", task))
        if loss is not None:
            share = "" if weight is None else f"·w{float(weight):.2f}".replace("w0.", "w.")
            parts.append(f"{task} {float(loss):.2f}{share}")
    return "  ".join(parts)
