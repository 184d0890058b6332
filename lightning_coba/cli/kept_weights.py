"""The weights of a checkpoint, put back into the module: for the results, and where the training has diverged."""

from math import isfinite, nan
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_coba.callbacks import DivergenceGuard
from lightning_coba.cli.fit_folder import write_results
from lightning_coba.errors import DamagedFileError, DivergedError, MissingFileError
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

    That is the best checkpoint where it was judged by a finite number, else the last one before anything went wrong.
    """
    chosen = next((file for file in _candidates(folder, best) if _is_good(trainer, module, file)), None)
    if chosen is None:
        kept = "There is no usable checkpoint, so no model was written."
    else:
        step = _read(chosen)["global_step"]
        kept = f"What was learned by step {step} is kept ({chosen.name})."
        load_weights(module, chosen)
        if hasattr(module, "assemble"):
            module.assemble()  # every rank has a shard
        if trainer.is_global_zero:
            write_results(folder, trainer, module)
    return DivergedError(f"{error.what} {kept}", error.cure, step=error.step, tasks=error.tasks)


def best_score(best: ModelCheckpoint | None, folder: RunFolder) -> float:
    """Return the best score of a fit; NaN where nothing was judged."""
    if best is None:
        return nan
    score, last = best.best_model_score, folder.files.last_checkpoint
    if score is None and last.is_file():  # ranks that were spawned have taken it with them
        score = load_checkpoint(last, ["callbacks"])["callbacks"].get(best.state_key, {}).get("best_model_score")
    return nan if score is None else float(score)


def _candidates(folder: RunFolder, best: ModelCheckpoint | None) -> list[Path]:
    files = folder.files
    earlier = [files.last_checkpoint, files.previous_checkpoint]
    if best is None or not isfinite(best_score(best, folder)):
        return earlier
    return [Path(best.best_model_path or files.best_checkpoint), *earlier]


def _is_good(trainer: L.Trainer, module: L.LightningModule, file: Path) -> bool:
    """Return whether a checkpoint is there, is whole, and was written before anything was not finite."""
    try:
        saved = _read(file)
    except (DamagedFileError, MissingFileError):
        return False
    guards = [callback for callback in trainer.callbacks if isinstance(callback, DivergenceGuard)]
    states = saved.get("callbacks", {})
    if any(guard.state_key in states and guard.tells_of_divergence(states[guard.state_key]) for guard in guards):
        return False
    # Buffers may hold infinity on purpose.
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    return all(bool(saved["state_dict"][name].isfinite().all()) for name in trained if name in saved["state_dict"])


def _read(checkpoint: str | Path) -> dict[str, Any]:
    return load_checkpoint(Path(checkpoint), ("state_dict", "global_step"))
