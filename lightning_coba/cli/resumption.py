"""Where a fit goes on from a checkpoint: what is said of it, and which length it cannot have any more."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from rich.console import Console

from lightning_coba.balancing.run_length import expected_steps
from lightning_coba.errors import UserError
from lightning_coba.runs.checkpoint_file import load_checkpoint


class Start(NamedTuple):
    """Where a fit begins.

    Attributes:
        checkpoint: From which it goes on; None = it starts anew.
        steps: Optimizer steps made there.
        epochs: Whole epochs before it.
    """

    checkpoint: Path | None = None
    steps: int = 0
    epochs: int = 0


def start_of(checkpoint: Path | None) -> Start:
    """Return where a fit begins that goes on from a checkpoint."""
    if checkpoint is None:
        return Start()
    saved = load_checkpoint(checkpoint, ["global_step", "epoch"])
    return Start(checkpoint, int(saved["global_step"]), int(saved["epoch"]))


def refuse_shorter(settings: Mapping[str, Any], start: Start, folder: Path) -> None:
    """Refuse a length that ends before the checkpoint from which a fit would go on.

    Raises:
        UserError: Then.
    """
    for key, done in (("max_steps", start.steps), ("max_epochs", start.epochs)):
        length = settings["trainer"].get(key)
        if length is not None and 0 <= length < done:
            raise UserError(
                f"`trainer.{key}` must be at least {done}, which the run in {folder} has made; got {length}.",
                "Give it more, or start another run with name=...",
            )


class Resumption(L.Callback):
    """Print from where a fit goes on, and how many steps are left of it.

    Args:
        folder: Of the run.
        checkpoint: The fit goes on from it.
    """

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self._is_said = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say it once the loaders tell how long the fit is."""
        left = expected_steps(trainer)
        self._say(trainer, f"{left:,.0f} {'step is' if left == 1 else 'steps are'} left" if math.isfinite(left) else "")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say it of a fit that was killed behind its last step."""
        self._say(trainer, "no step is left")

    def _say(self, trainer: L.Trainer, left: str) -> None:
        if self._is_said or not trainer.is_global_zero:
            return
        self._is_said = True
        said = f"Resuming {self.folder} at step {trainer.global_step:,}, from {self.checkpoint.name}"
        Console().print(f"{said}; {left}." if left else f"{said}.", soft_wrap=True, highlight=False, markup=False)
