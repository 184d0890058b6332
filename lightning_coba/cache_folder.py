"""Where files are kept that take long to make again: dequantised models, rows and tokens."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_coba.folder_lock import locked_file


def cache_folder() -> Path:
    """Return the user's cache folder, which may not exist yet; all of it may be deleted at any time.

    It is ``$LIGHTNING_COBA_CACHE``, else ``$XDG_CACHE_HOME/lightning_coba``, else ``~/.cache/lightning_coba``.
    """
    own = os.environ.get("LIGHTNING_COBA_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightning_coba"


@contextmanager
def only_maker(kind: str, key: str, what: str) -> Iterator[None]:
    """Make an item of the cache while nobody else makes it; look again whether it is there, once inside.

    Runs that need other items do not wait. Somebody who waits is told so after 2 seconds, on stderr.

    Args:
        kind: the item's folder in the cache.
        key: the item's name in it.
        what: the item is, such as ``the tokens of task 'qa'``.
    """
    locks = cache_folder() / "locks"
    with suppress(OSError):  # a cache that cannot be written is not locked either
        locks.mkdir(parents=True, exist_ok=True)

    def say(holder: str) -> None:
        by = f"process {holder}" if holder else "another process"
        sys.stderr.write(f"Waiting for {by} to make {what}.\n")
        sys.stderr.flush()

    with locked_file(locks / f"{kind}-{key}", say):
        yield
