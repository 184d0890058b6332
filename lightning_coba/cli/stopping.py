"""Stopped from outside, by Ctrl-C or SIGTERM: how a process hears it, and when it obeys."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CODES = tuple(128 + number for number in SIGNALS)
#: Seconds within which a signal is the one that was heard before: terminals and launchers send it to every process,
#: and ranks pass it on to each other.
ONE_STOP = 1.0
#: Seconds that a process may take to end; after them another signal ends it as it is.
LONGEST_END = 10.0
#: Seconds within which the main thread hears a signal, unless it waits in a library.
LONGEST_DEAF = 4.0
_WATCHER = "signal-watcher"
#: Environment variable with the process that started the command; its ranks tell it what they hear.
STARTER = "LIGHTNING_COBA_STARTER"


class Stopped(SystemExit):
    """The process was told to end. Its code is what shells return for the signal: 130 or 143.

    Attributes:
        folder: of the run that was stopped; None before there was one.
    """

    folder: Path | None = None

    def __str__(self) -> str:
        by = "Ctrl-C" if self.code == 128 + signal.SIGINT else "SIGTERM"
        return f"stopped by {by}" + (f"; resume=auto continues the run in {self.folder}." if self.folder else ".")


@dataclass
class _Heard:
    number: int | None = None  # of the first signal
    at: float = 0.0
    is_ending: bool = False
    can_wait: bool = False  # until a step from which the run can go on
    started_ranks: Callable[[], Sequence[int]] = tuple


_heard = _Heard()


@contextmanager
def listening() -> Iterator[None]:
    """Raise `Stopped` where a signal is heard, or let the fit under way come to a step from which it can go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(started_ranks: Callable[[], Sequence[int]] | None = None) -> dict[int, Any]:
    """Begin to hear signals; one that is ignored (`nohup`, `&`) stays so.

    Args:
        started_ranks: returns the processes to which a signal is passed on.

    Returns:
        What heard the signals before.
    """
    found = {number: signal.getsignal(number) for number in SIGNALS}
    if _hear not in found.values():
        vars(_heard).update(vars(_Heard()))
        os.environ.setdefault(STARTER, str(os.getpid()))
    if started_ranks is not None:
        _heard.started_ranks = started_ranks
    before: dict[int, Any] = {number: handler for number, handler in found.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, _hear)
    return before


def end_when_stuck(end: Callable[[int], None]) -> None:
    """Call a function, in a thread, where a signal that must not wait is not heard within some seconds.

    Python hears signals in its main thread, and not while that waits in a library: for a rank that does not come, say.

    Args:
        end: ends the process; called with its exit code.
    """
    if any(thread.name == _WATCHER for thread in threading.enumerate()):
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        with sender, receiver:  # the thread keeps both open
            while number := receiver.recv(1):
                time.sleep(LONGEST_DEAF)
                if number[0] in SIGNALS and not has_heard() and not _heard.can_wait:
                    end(128 + number[0])

    threading.Thread(target=watch, name=_WATCHER, daemon=True).start()


def has_heard() -> bool:
    """Return whether this process was told to end."""
    return _heard.number is not None


def let_wait(can_wait: bool) -> None:
    """Say whether a signal may wait, since somebody asks `has_heard` and raises what `stopped` returns."""
    _heard.can_wait = can_wait


def stopped() -> Stopped:
    """Return what ends this process, which from now on listens to nothing else."""
    _heard.is_ending = True
    return Stopped(128 + (_heard.number or signal.SIGTERM))


def stop_behind(error: BaseException) -> Stopped | None:
    """Return the stop that an exception comes from; None where it is one of its own.

    When one rank ends, what the others meet first may be an error of their connection.
    """
    if isinstance(error, Stopped):
        return error
    code = getattr(error, "exit_code", None)  # torch's, of a rank that it has spawned
    if isinstance(code, int) and code < 0:
        # By another signal it was killed; torch then ends the others with SIGTERM, which they pass on to this process.
        return Stopped(128 - code) if -code in SIGNALS else None
    if has_heard():
        return stopped()
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return Stopped(128 + signal.SIGINT)
    if type(error).__name__ == "SIGTERMException":  # Lightning's, where nobody here listens
        return Stopped(128 + signal.SIGTERM)
    return Stopped(code) if code in CODES else None


def ignore_signals() -> None:
    """Hear nothing more: while Python ends it has no handlers, and a second Ctrl-C would change the exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def send(processes: Sequence[int], number: int) -> None:
    """Send a signal to processes, some of which may have ended."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _hear(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _heard.number is None:
        _heard.number, _heard.at = number, now
        send([*_heard.started_ranks(), *_starter()], number)
        if not _heard.can_wait:
            raise stopped()
        if number == signal.SIGINT and os.environ.get("LOCAL_RANK", "0") == "0":
            print("Stopping after this step; Ctrl-C again stops at once.", file=sys.stderr, flush=True)
    elif _heard.is_ending:
        if now - _heard.at > LONGEST_END:
            os._exit(128 + number)
    elif now - _heard.at > ONE_STOP:
        _heard.at = now
        raise stopped()


def _starter() -> list[int]:
    """Return the process that started this one as a rank of its own."""
    is_spawned = multiprocessing.parent_process() is not None
    is_ours = "LOCAL_RANK" in os.environ and (is_spawned or os.environ.get(STARTER) == str(os.getppid()))
    return [os.getppid()] if is_ours else []
