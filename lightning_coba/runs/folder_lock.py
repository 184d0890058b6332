"""One process at a time in a folder; a process that dies lets go."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_SECONDS_BETWEEN_TRIES = 0.1


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
    descriptor = _take(folder, patience)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _take(folder: Path, patience: float | None) -> int | None:
    if sys.platform == "win32" or not folder.is_dir():
        return None
    give_up = None if patience is None else time.monotonic() + patience
    descriptor = os.open(folder, os.O_RDONLY)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if give_up is not None and time.monotonic() > give_up:
                os.close(descriptor)
                raise
            time.sleep(_SECONDS_BETWEEN_TRIES)
        except OSError:  # no locks there
            os.close(descriptor)
            return None
