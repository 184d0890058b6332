"""Tables that are kept between runs: written once, found again by what they were made of, read by memory map."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from lightning_coba.cache_folder import cache_folder

_FORMAT = 4  # another number makes all older tables stale
_FILE = "rows.arrow"
_UNFINISHED = "unfinished-"
_ABANDONED_SECONDS = 7 * 24 * 3600


def fingerprint(*parts: Any) -> str:
    """Return a name for a table that is made of these parts alone: 32 hexadecimal digits.

    Args:
        *parts: anything that JSON can hold; what it cannot hold counts as its ``str``.
    """
    text = json.dumps([_FORMAT, *parts], default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class ArrowStore:
    """A table in a folder of the cache.

    Its file is mapped into memory, so that only what is read takes any; pickled, it travels as the folder's name.

    Args:
        folder: what `new_store` has written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def table(self) -> pa.Table:
        """All columns; the file is opened at the first use."""
        with pa.memory_map(str(self.folder / _FILE)) as mapped:
            return pa.ipc.open_stream(mapped).read_all()

    def numbers(self, column: str) -> np.ndarray:
        """Return a column of numbers as an array, ``[rows]``."""
        return self.table.column(column).to_numpy()


class NewStore:
    """A table that is being written.

    Attributes:
        store: the table, once it is whole.
    """

    store: ArrowStore

    def __init__(self, writer: pa.RecordBatchStreamWriter) -> None:
        self._writer = writer

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Append some rows, a thousand or more: a start maps some pages of each part, to read its numbers."""
        self._writer.write(rows)


def kept(kind: str, key: str) -> ArrowStore | None:
    """Return the table that an earlier run has written under a key, or None; a damaged one is deleted."""
    folder = cache_folder() / kind / key
    if not folder.is_dir():
        return None
    store = ArrowStore(folder)
    try:
        store.table.validate()  # that it is whole; what it holds is not read
    except (pa.ArrowException, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return store


@contextmanager
def new_store(kind: str, schema: pa.Schema, key: str | None = None) -> Iterator[NewStore]:
    """Write a table, which appears under its key when the block ends, all at once.

    A run that is killed leaves nothing that could be taken for a table; of several that write the same, the first to
    end is kept.

    Args:
        kind: the folder of the cache.
        schema: the columns.
        key: see `fingerprint`; ``None`` = the table is named by its content.
    """
    home = cache_folder() / kind
    home.mkdir(parents=True, exist_ok=True)
    _delete_abandoned(home)
    with TemporaryDirectory(prefix=_UNFINISHED, dir=home) as unfinished:
        folder = Path(unfinished) / "store"
        folder.mkdir()
        with pa.ipc.new_stream(str(folder / _FILE), schema) as writer:
            new = NewStore(writer)
            yield new
        if key is None:
            with (folder / _FILE).open("rb") as content:
                key = hashlib.file_digest(content, "blake2b").hexdigest()[:32]
        target = home / key
        new.store = ArrowStore(target)
        try:
            os.replace(folder, target)
        except OSError:
            if not target.is_dir():  # nobody else was faster
                raise


def _delete_abandoned(home: Path) -> None:
    """Delete what processes that were killed have left."""
    for folder in home.glob(f"{_UNFINISHED}*"):
        if folder.exists() and folder.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
