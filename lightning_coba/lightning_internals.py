"""What a balancer needs to know and Lightning keeps to itself; each reader here has a test."""

import lightning as L
from torch import Tensor


def sanity_metrics(trainer: L.Trainer) -> dict[str, Tensor]:
    """Return what the sanity pass logged, loader by loader, then what was logged at its end.

    With several validation loaders ``trainer.callback_metrics`` is empty during the sanity pass: Lightning stores a
    loader's values when the next one begins, and not while sanity checking. They are in the loop's result
    collection, which shows one loader at a time and is reset only after ``on_validation_end``.
    """
    results = trainer._results
    if results is None:
        return dict(trainer.callback_metrics)
    shown = results.dataloader_idx
    loaders = {item.meta.dataloader_idx for item in results.values()} - {None}
    metrics: dict[str, Tensor] = {}
    try:
        for results.dataloader_idx in sorted(loaders):
            metrics |= results.metrics(on_step=False)["callback"]
    finally:
        results.dataloader_idx = shown
    return metrics | trainer.callback_metrics


def starts_by_command_line(trainer: L.Trainer) -> bool:
    """Return whether the Trainer starts its processes by running the command line again."""
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    return isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)
