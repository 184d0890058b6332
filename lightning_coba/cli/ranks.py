"""The processes that a Trainer starts as its other ranks: they stop together, and none outlives the command."""

import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import lightning as L

from lightning_coba.cli.stopping import (
    CODES,
    LONGEST_END,
    SIGNALS,
    Stopped,
    end_when_stuck,
    has_heard,
    let_wait,
    listen,
    send,
    stopped,
)
from lightning_coba.errors import WrongUseError
from lightning_coba.lightning_internals import leave_signals_alone, ranks_of, starts_by_command_line, starts_by_spawning

_trainers: "weakref.WeakSet[L.Trainer]" = weakref.WeakSet()
_writers: list[Callable[[BaseException], None]] = []


def watch_over(trainer: L.Trainer) -> None:
    """Take the signals of a Trainer over from Lightning, and pass them on to the ranks that it starts."""
    leave_signals_alone(trainer, _end_stuck)
    listen(started_ranks)
    if starts_by_command_line(trainer):
        end_when_stuck(_end_stuck)
    _trainers.add(trainer)


@contextmanager
def waiting_for_ranks(trainer: L.Trainer) -> Iterator[None]:
    """Leave it to the ranks to obey, where all of them are processes that this one waits for."""
    let_wait(starts_by_spawning(trainer))
    try:
        yield
    finally:
        let_wait(False)
    if has_heard():
        raise stopped()


def write_when_stuck(write: Callable[[BaseException], None]) -> None:
    """Say how the run's status is written where this process has to end while its main thread waits for a rank."""
    _writers[:] = [write]


def _end_stuck(code: int) -> None:
    """End as a rank did that has died, or as a signal asks, in the middle of whatever the main thread waits for."""
    if -code in SIGNALS:  # of a rank that did not listen yet
        code = 128 - code
    error = Stopped(code) if code in CODES else WrongUseError(f"Another rank has ended with exit code {code}.")
    send(started_ranks(), signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    for write in _writers:
        with suppress(Exception):  # nothing may keep it from ending
            write(error)
    print(f"coba-train: {error}", file=sys.stderr, flush=True)
    os._exit(code if code in CODES else 1)


def started_ranks() -> list[int]:
    """Return the processes of ranks that this one has started and that still run."""
    return [process for trainer in _trainers for process in ranks_of(trainer)]


def end_other_ranks() -> None:
    """Give the ranks that this process has started a few seconds to end, and end what is left of them."""
    give_up = time.monotonic() + LONGEST_END / 2
    while started_ranks() and time.monotonic() < give_up:
        time.sleep(0.05)
    send(started_ranks(), signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
