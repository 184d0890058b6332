"""What this package needs to know and Lightning and torch keep to themselves: the only place, and a test for each."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.loops.progress import _BatchProgress
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn
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


def logging_step(trainer: L.Trainer) -> int:
    """Return the step label under which Lightning itself logs now, so that what belongs together stays in one row."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def batch_progress(trainer: L.Trainer) -> _BatchProgress:
    """Return Lightning's counts of training batches: ``total`` and ``current`` (of the epoch), each in four stages."""
    return trainer.fit_loop.epoch_loop.batch_progress


def num_batches_done(trainer: L.Trainer) -> int:
    """Return the number of training batches, over all epochs, whose hooks have all run; it survives a resume."""
    return int(batch_progress(trainer).total.completed)


def is_accumulating(trainer: L.Trainer) -> bool:
    """Return whether the batch under way, or the last one, ends without an optimizer step."""
    return bool(trainer.fit_loop._should_accumulate())


def loaded_batch_counts(trainer: L.Trainer) -> list[dict[str, int]]:
    """Return the counts of training batches, total and of the epoch, in the checkpoint that is being loaded.

    Lightning reads them after the datamodule's state, so what is written into them counts. Empty where no fit resumes.
    """
    checkpoint: dict[str, Any] = trainer._checkpoint_connector._loaded_checkpoint
    if not checkpoint or "loops" not in checkpoint:
        return []
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return [progress["total"], progress["current"]]


def uses_static_graph(trainer: L.Trainer) -> bool:
    """Return whether DDP takes the first backward pass of a step for the whole of it."""
    return bool(getattr(trainer.strategy, "_ddp_kwargs", {}).get("static_graph", False))


def starts_by_command_line(trainer: L.Trainer) -> bool:
    """Return whether the strategy starts its other ranks by running the command line again."""
    return isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)


@runtime_checkable
class HandsBack(Protocol):
    """A callback that, in the process that called ``fit``, goes on with what it held in rank 0 when the fit ended."""

    @property
    def state_key(self) -> str:
        """Key that no other callback of the Trainer has."""

    def handed_back(self) -> dict[str, Any]:
        """Return, in rank 0, what ``torch.load`` reads with ``weights_only=True``."""

    def take_back(self, trainer: L.Trainer, pl_module: L.LightningModule, state: dict[str, Any]) -> None:
        """Take it over, on the CPU, in the process that called ``fit``."""


def hand_back_callbacks() -> None:
    """Let callbacks that are `HandsBack` survive strategies that spawn or fork all their ranks (``ddp_spawn``, ...).

    These end with the fit, and Lightning hands back the weights, the best path and ``callback_metrics`` alone. No hook
    is called in the process that stays, so its launcher is taught here; once is enough.
    """
    launcher: Any = _MultiProcessingLauncher
    if hasattr(launcher, "hands_back_callbacks"):
        return
    launcher.hands_back_callbacks = True
    get_extra_results, update_main_process_results = launcher.get_extra_results, launcher.update_main_process_results

    def get_with_callbacks(self: Any, trainer: L.Trainer) -> dict[str, Any]:
        extra = get_extra_results(self, trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            states = {c.state_key: c.handed_back() for c in trainer.callbacks if isinstance(c, HandsBack)}
            content = io.BytesIO()  # tensors by themselves would share the memory of a process that ends
            torch.save(states, content)
            extra["callbacks"] = content.getvalue()
        return extra

    def update_with_callbacks(self: Any, trainer: L.Trainer, extra: dict[str, Any]) -> None:
        update_main_process_results(self, trainer, extra)
        if "callbacks" in extra:
            states = torch.load(io.BytesIO(extra["callbacks"]), map_location="cpu", weights_only=True)
            for callback in trainer.callbacks:
                if isinstance(callback, HandsBack) and callback.state_key in states:
                    callback.take_back(trainer, trainer.lightning_module, states[callback.state_key])

    launcher.get_extra_results, launcher.update_main_process_results = get_with_callbacks, update_with_callbacks


def summary_writer(writer: Any) -> Any:
    """Return the writer of single summaries inside torch's ``SummaryWriter``."""
    return writer._get_file_writer()


@contextmanager
def graph_kept_after_backward() -> Iterator[None]:
    """Let a compiled model be differentiated several times: its first backward pass would free what the next needs."""
    config = torch._functorch.config
    was_on, config.donated_buffer = config.donated_buffer, False
    try:
        yield
    finally:
        if was_on:  # otherwise whoever turned it off will put it back: two callbacks do not end in reverse order
            config.donated_buffer = True
