"""One process at a time at a folder or a file; a process that dies lets go."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_SECONDS_BETWEEN_TRIES = 0.1
_SECONDS_UNTIL_SAID = 2.0
#: Descriptors of what this process holds.
_held: set[int] = set()


@contextmanager
def locked(folder: Path, patience: float | None = None) -> Iterator[None]:
    """Hold a folder, which nobody else holds meanwhile; no file is left behind.

    Nothing is held where the folder does not exist, or its system cannot lock folders (Windows, some network drives).

    Args:
        folder: to hold.
        patience: seconds to wait for another holder; None = as long as it takes.

    Raises:
        BlockingIOError: if somebody else holds it for longer.
    """
    give_up = None if patience is None else time.monotonic() + patience

    def wait() -> None:
        if give_up is not None and time.monotonic() > give_up:
            raise BlockingIOError(f"Another process holds {folder}.")

    descriptor = _take(folder, os.O_RDONLY, wait)
    try:
        yield
    finally:
        _let_go(descriptor)


@contextmanager
def locked_file(file: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold a file, which is there only while it is held and has the holder's process id in it.

    Nothing is held where the file cannot be written or its system cannot lock files.

    Args:
        file: to hold, in a folder that is there.
        waiting: called once, after 2 seconds of waiting, with the process id of the holder; empty where it is unknown.
    """
    say_at = time.monotonic() + _SECONDS_UNTIL_SAID
    said = False

    def wait() -> None:
        nonlocal said
        if not said and time.monotonic() > say_at:
            said = True
            holder = ""
            with suppress(OSError):  # just deleted
                holder = file.read_text(encoding="utf-8")
            waiting(holder)

    descriptor = _take(file, os.O_RDWR | os.O_CREAT, wait)
    if descriptor is not None:
        os.truncate(descriptor, 0)  # a holder that was killed has left its id
        os.write(descriptor, str(os.getpid()).encode())
    try:
        yield
    finally:
        if descriptor in _held:
            file.unlink(missing_ok=True)  # while it is held: whoever waits finds a new one
        _let_go(descriptor)


def _take(path: Path, flags: int, wait: Callable[[], None]) -> int | None:
    """Return a descriptor that holds what is at the path; None where that cannot be held."""
    if sys.platform == "win32":
        return None
    while True:
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                _held.add(descriptor)
                return descriptor
        except BlockingIOError:
            pass
        except OSError:  # no locks there
            os.close(descriptor)
            return None
        os.close(descriptor)
        wait()
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether a path still leads to what was opened: its last holder may have deleted it since."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _let_go(descriptor: int | None) -> None:
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)


def _close_inherited() -> None:
    """Leave what a process holds to it alone: a child that outlives it would go on holding."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_inherited)
