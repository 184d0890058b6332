"""The weights of a checkpoint, put back into the module: for the results, and where the training has diverged."""

from math import isfinite
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_coba.cli.fit_folder import write_results
from lightning_coba.errors import DivergedError
from lightning_coba.models.sharding import load_whole_state_dict
from lightning_coba.runs.checkpoint_file import load_checkpoint
from lightning_coba.runs.run_folder import RunFolder


def load_weights(module: L.LightningModule, checkpoint: str | Path) -> None:
    """Take over the weights of a checkpoint, as a test pass would have."""
    state = _read(checkpoint)["state_dict"]
    if module.device_mesh is not None:
        load_whole_state_dict(module, state)
    else:
        module.load_state_dict(state, strict=module.strict_loading)


def with_what_is_kept(
    error: DivergedError,
    folder: RunFolder,
    trainer: L.Trainer,
    module: L.LightningModule,
    best: ModelCheckpoint | None,
) -> DivergedError:
    """Write what a user takes away from the last good checkpoint, and return the error with a sentence about it.

    That is the best checkpoint where it was judged by a finite number, else the last one.
    """
    chosen = next((file for file in _candidates(folder, best) if file.is_file() and _is_finite(module, file)), None)
    if chosen is None:
        kept = "There is no checkpoint from before, so no model was written."
    else:
        step = _read(chosen)["global_step"]
        kept = f"What was learned by step {step} is kept ({chosen.name})."
        load_weights(module, chosen)
        if hasattr(module, "assemble"):
            module.assemble()  # every rank has a shard
        if trainer.is_global_zero:
            write_results(folder, trainer, module)
    return DivergedError(f"{error.what} {kept}", error.cure, step=error.step, tasks=error.tasks)


def _candidates(folder: RunFolder, best: ModelCheckpoint | None) -> list[Path]:
    last = folder.files.last_checkpoint
    score = None if best is None else best.best_model_score
    judged = best is not None and best.best_model_path and score is not None and isfinite(float(score))
    return [Path(best.best_model_path), last] if best is not None and judged else [last]


def _is_finite(module: L.LightningModule, checkpoint: Path) -> bool:
    """Return whether all trained weights in a checkpoint are finite; buffers may hold infinity on purpose."""
    state = _read(checkpoint)["state_dict"]
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    return all(bool(state[name].isfinite().all()) for name in trained if name in state)


def _read(checkpoint: str | Path) -> dict[str, Any]:
    return load_checkpoint(Path(checkpoint), ("state_dict", "global_step"))
