"""What this package needs to know and Lightning and torch keep to themselves: the only place, and a test for each."""

import io
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.loops.progress import _BatchProgress
from lightning.pytorch.strategies.launchers import (
    _MultiProcessingLauncher,
    _SubprocessScriptLauncher,
    subprocess_script,
)
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException

from lightning_coba.errors import UserError

#: Seconds that a process has to say why it ends after one that it started has died, before Lightning kills it.
OBSERVER_PATIENCE = 4.0


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


def after_each_batch(trainer: L.Trainer, action: Callable[[], None]) -> None:
    """Call a function in this fit when a training batch is over with all that follows: hooks, logs, a validation pass.

    A checkpoint that is written there resumes with the next batch, unless a pass has just been made. In the hook
    ``on_train_batch_end`` the module's own, and what it logs, are still to come.
    """
    loop = trainer.fit_loop.epoch_loop

    def on_advance_end(data_fetcher: Any) -> None:
        type(loop).on_advance_end(loop, data_fetcher)
        action()

    loop.on_advance_end = on_advance_end  # type: ignore[method-assign]


def loaded_batch_counts(trainer: L.Trainer) -> list[dict[str, int]]:
    """Return the counts of training batches, total and of the epoch, in the checkpoint that is being loaded.

    Lightning reads them after the datamodule's state, so what is written into them counts. Empty where no fit resumes.
    """
    checkpoint: dict[str, Any] = trainer._checkpoint_connector._loaded_checkpoint
    if not checkpoint or "loops" not in checkpoint:
        return []
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return [progress["total"], progress["current"]]


def raised_while_restoring(error: BaseException) -> bool:
    """Return whether an exception came out of Lightning's reading of a checkpoint, and not of the training after it."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "lightning.pytorch.trainer.connectors.checkpoint_connector" in frames


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


def hand_back_errors() -> None:
    """Let a `UserError` of a rank that was spawned or forked reach the process that called ``fit`` as what it is.

    torch hands back the text of its traceback alone. Once is enough.
    """
    launcher: Any = _MultiProcessingLauncher
    if hasattr(launcher, "hands_back_errors"):
        return
    launcher.hands_back_errors = True
    launch = launcher.launch

    def launch_and_raise(self: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "error"
            try:
                return launch(self, _Telling(function, file), *args, **kwargs)
            except ProcessRaisedException as error:
                if not file.is_file():
                    raise
                raise pickle.loads(file.read_bytes()) from error

    launcher.launch = launch_and_raise


class _Telling(NamedTuple):
    """A function of a rank that writes down the error it ends with."""

    function: Callable[..., Any]
    file: Path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.function(*args, **kwargs)
        except UserError as error:
            partial = self.file.with_name(str(os.getpid()))
            partial.write_bytes(pickle.dumps(error))
            os.replace(partial, self.file)
            raise


def starts_by_spawning(trainer: L.Trainer) -> bool:
    """Return whether every rank is a process that this one starts, and waits for."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def ranks_of(trainer: L.Trainer) -> list[int]:
    """Return the processes that a Trainer has started as its other ranks and that still run."""
    processes = getattr(trainer.strategy.launcher, "procs", [])
    is_spawned = starts_by_spawning(trainer)
    return [p.pid for p in processes if (p.is_alive() if is_spawned else p.poll() is None)]


def leave_signals_alone(trainer: L.Trainer, when_stuck: Callable[[int], None]) -> None:
    """Keep a Trainer from acting on SIGTERM, and from killing this process at once when another rank has died.

    Args:
        trainer: to teach.
        when_stuck: called in a thread with the exit code of a rank that has died, where this process is still there
            some seconds later: its main thread waits for the rank, and hears no signal.

    Lightning's handler enters a collective of its own, in the middle of whichever one the rank is in: the ranks wait
    for each other for ever. At each batch rank 0 tells the others what it heard, and only what it heard.
    """
    trainer._signal_connector._sigterm_notifier_fn = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
    subprocess_script._launch_process_observer = partial(_observe, when_stuck=when_stuck)  # type: ignore[attr-defined]


def retire_observer() -> None:
    """Keep Lightning from killing this process, which ends by itself."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []


class _PatientObserver(_ChildProcessObserver):
    when_stuck: Callable[[int], None]

    def _terminate_all(self) -> None:
        code = next(process.returncode for process in self._child_processes if process.returncode)
        time.sleep(OBSERVER_PATIENCE)
        if self._child_processes:  # not retired meanwhile
            for process in self._child_processes:
                process.kill()
            self.when_stuck(code)


def _observe(child_processes: list[Any], when_stuck: Callable[[int], None]) -> None:
    observer = _PatientObserver(main_pid=os.getpid(), child_processes=child_processes, sleep_period=1)
    observer.when_stuck = when_stuck
    observer.start()


def _nothing(*args: Any) -> None:
    """Take the place of a function; it can be pickled."""


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
