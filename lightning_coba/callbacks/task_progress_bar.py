from dataclasses import replace
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import CustomTimeColumn
from lightning.pytorch.trainer.states import TrainerFn
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.progress import ProgressColumn, Task
from rich.text import Text

from lightning_coba.balancing.publish import is_log_step
from lightning_coba.balancing.remaining_time import RemainingTime
from lightning_coba.lightning_internals import batch_progress
from lightning_coba.log_keys import TRAIN_LOSS, VAL_LOSS
from lightning_coba.simplex.protocol import simplexes_of
from lightning_coba.simplex.short_names import shortened
from lightning_coba.simplex.standings import ARROWS, ASCII_ARROWS, Standings, standings_of, standings_table

#: Rows that the names may take below the bar; a bar that fills the screen cannot be redrawn in place.
MOST_ROWS = 4
#: Spaces between two names.
GAP = 2


class TaskProgressBar(RichProgressBar):
    """Show a rich progress bar, how each task stands below it, and a table after each validation pass.

    Use it with any module: it reads the records of the balancers in ``trainer.callbacks``, and of any other callback or
    module that moves weights (see :class:`~lightning_coba.simplex.MovesSimplex`). A part of the line reads
    ``de 0.82↓ 1.03x``: the loss is 0.82 of what it was before training and falls, the weight is 1.03 times the equal
    share. The table has the loss on the validation rows, the slope, the weight and its change in these multiples, and
    the scores of balancers that have them; a task whose loss rises is red.

    The time behind the bar is what the epoch took so far, and what is left of the whole run, with the validation passes
    to come.

    Where the output is no terminal (a log file) a bar cannot be redrawn. One plain line after each validation pass
    takes the place of the table, and one each time the Trainer logs takes that of the bar. Where the encoding has no
    arrows, ``v``, ``=`` and ``^`` stand for falls, stays and rises.

    Args:
        **options: Arguments of Lightning's ``RichProgressBar``.

    Example:
        >>> trainer = L.Trainer(callbacks=[TaskProgressBar()], logger=False, enable_checkpointing=False)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"leave": True, **options})
        self._said = ""
        self._standings: list[Standings] = []
        self._records_shown = -1
        self._remaining = RemainingTime()
        self._pass_batches = 0

    @property
    def total_train_batches(self) -> int | float:
        """Batches of the epoch, or as many as the last optimizer step of the run leaves of it."""
        trainer = self.trainer
        if trainer.max_steps <= 0:
            return trainer.num_training_batches
        accumulate = trainer.accumulate_grad_batches
        done = batch_progress(trainer).current.processed  # above 0 where a fit goes on within an epoch
        done = 0 if done >= trainer.num_training_batches else done // accumulate * accumulate  # asked between epochs
        left = (trainer.max_steps - trainer.global_step) * accumulate
        return min(trainer.num_training_batches, done + left)

    def configure_columns(self, trainer: L.Trainer) -> list[ProgressColumn]:
        """Let the bar of training say what is left of the whole run."""
        columns = super().configure_columns(trainer)
        return [
            _TimeColumn(column.style, self) if isinstance(column, CustomTimeColumn) else column for column in columns
        ]

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the loss; the weights would not fit beside a bar."""
        loss = trainer.callback_metrics.get(TRAIN_LOSS)
        return {} if loss is None else {"loss": round(float(loss), 3)}

    def _get_train_description(self, current_epoch: int) -> str:
        """Leave out the number of epochs where steps are what ends the run: Lightning counts them as -2."""
        endless = self.trainer.max_epochs is None or self.trainer.max_epochs < 0
        return f"Epoch {current_epoch}" if endless else super()._get_train_description(current_epoch)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with what a checkpoint brought."""
        super().on_train_start(trainer, pl_module)
        self._remaining.begin_training(trainer)
        self._records_shown = -1
        self._look(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the line current, as often as the Trainer logs: a module logs after the callbacks' batch end."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if not trainer.global_step or not is_log_step(trainer, trainer.global_step):
            return
        if self._is_live:
            self._look(trainer, pl_module)
        elif TRAIN_LOSS in trainer.callback_metrics:
            self._say(trainer, f"train_loss {float(trainer.callback_metrics[TRAIN_LOSS]):.3f}")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *arguments: Any) -> None:
        """Move the bar, and estimate what is left."""
        super().on_train_batch_end(trainer, pl_module, *arguments)
        self._remaining.end_step(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to measure a pass."""
        super().on_validation_start(trainer, pl_module)
        self._pass_batches = 0
        self._remaining.begin_pass()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *arguments: Any) -> None:
        """Move the bar of the pass."""
        super().on_validation_batch_end(trainer, pl_module, *arguments)
        self._pass_batches += 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how everything stands."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING:
            self._remaining.end_pass(trainer, self._pass_batches)
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or self._console is None:
            return
        self._standings = standings_of(trainer, pl_module)
        self._records_shown = _num_records(trainer, pl_module)
        mean = trainer.callback_metrics.get(VAL_LOSS)
        mean = "" if mean is None else f"{VAL_LOSS} {float(mean):.3f}"
        if not self._is_live:
            arrows = self._arrows(self._console)
            parts = [part for standings in self._standings for part in _parts(standings, arrows)]
            self._say(trainer, "  ".join(["validated", *([mean] if mean else []), *parts]))
        elif trainer.is_global_zero:
            for standings in self._standings:
                factor = f"DF {standings.divergence_factor:.2f}" if standings.divergence_factor >= 0 else ""
                title = "  ".join(part for part in (_step(trainer), "validated", mean, standings.name, factor) if part)
                unicode = self._arrows(self._console) is ARROWS
                self._console.print(standings_table(standings, title, unicode), "")

    @property
    def _is_live(self) -> bool:
        return self._console is not None and self._console.is_terminal

    @staticmethod
    def _arrows(console: Console) -> tuple[str, ...]:
        return ARROWS if console.encoding.lower().startswith("utf") else ASCII_ARROWS

    def _init_progress(self, trainer: L.Trainer) -> None:
        super()._init_progress(trainer)
        progress = self.progress
        if progress is None or progress.get_renderables == self._renderables:
            return
        self._of_bar = progress.get_renderables
        progress.get_renderables = self._renderables  # what rich's Progress is meant to be extended by

    def _renderables(self) -> list[RenderableType]:
        if not self._is_live or self._console is None:
            return [*self._of_bar()]
        lines = [line_of_tasks(standings, self._console, self._arrows(self._console)) for standings in self._standings]
        return [*self._of_bar(), *lines]

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        records = _num_records(trainer, pl_module)
        if self._is_live and records != self._records_shown:
            self._records_shown = records
            self._standings = standings_of(trainer, pl_module)

    def _say(self, trainer: L.Trainer, text: str) -> None:
        line = f"{_step(trainer)}  {text}"
        if self._console is None or not trainer.is_global_zero or line == self._said:
            return
        self._said = line
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _TimeColumn(CustomTimeColumn):
    """Time of a bar, and what is left: of training the whole run, its validation passes included."""

    def __init__(self, style: Any, bar: TaskProgressBar) -> None:
        super().__init__(style)
        self._bar = bar

    def render(self, task: Task) -> Text:
        """Write it."""
        left = self._bar._remaining.seconds
        if task.id != self._bar.train_progress_bar_id or left is None:
            return super().render(task)
        elapsed = timedelta(seconds=int(task.elapsed or 0))
        return Text(f"{elapsed} • {timedelta(seconds=int(left))} left", style=self.style)


def _num_records(trainer: L.Trainer, pl_module: L.LightningModule) -> int:
    return sum(simplex.num_records for simplex in simplexes_of(trainer, pl_module))


def _step(trainer: L.Trainer) -> str:
    return f"step {trainer.global_step}" + (f"/{trainer.max_steps}" if trainer.max_steps > 0 else "")


def _parts(standings: Standings, arrows: tuple[str, ...]) -> list[str]:
    name = [f"[{standings.name}]"] if standings.name else []
    return [*name, *(row.words(arrows) for row in standings.rows)]


def line_of_tasks(standings: Standings, console: Console, arrows: tuple[str, ...]) -> RenderableType:
    """Return the names side by side, never broken inside one, in a few rows at most; long names are cut for it."""
    for longest in (40, 24, 16, 12, 9):
        rows = [replace(row, name=shortened(row.name, longest)) for row in standings.rows]
        parts = _parts(replace(standings, rows=rows), arrows)
        columns = max((console.width + GAP) // (max(map(len, parts)) + GAP), 1)
        if len(parts) <= columns * MOST_ROWS:
            break
    if len(parts) > (most := columns * MOST_ROWS):
        parts = [*parts[: most - 1], f"... {len(parts) - most + 1} more"]
    return Columns([Text(part, style="cyan", no_wrap=True) for part in parts], padding=(0, GAP, 0, 0), equal=True)
