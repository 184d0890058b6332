"""The processes that a Trainer starts as its other ranks: they stop together, and none outlives the command."""

import signal
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L

from lightning_coba.cli.stopping import LONGEST_END, has_heard, let_wait, listen, send, stopped
from lightning_coba.lightning_internals import leave_signals_alone, ranks_of, starts_by_spawning

_trainers: "weakref.WeakSet[L.Trainer]" = weakref.WeakSet()


def watch_over(trainer: L.Trainer) -> None:
    """Take the signals of a Trainer over from Lightning, and pass them on to the ranks that it starts."""
    leave_signals_alone(trainer)
    listen(started_ranks)
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


def started_ranks() -> list[int]:
    """Return the processes of ranks that this one has started and that still run."""
    return [process for trainer in _trainers for process in ranks_of(trainer)]


def end_other_ranks() -> None:
    """Give the ranks that this process has started a few seconds to end, and end what is left of them."""
    give_up = time.monotonic() + LONGEST_END / 2
    while started_ranks() and time.monotonic() < give_up:
        time.sleep(0.05)
    send(started_ranks(), signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
