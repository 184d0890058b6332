"""Arrow tables that are larger than memory: written as streams, read through memory maps, in any process."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

_NUMBERS = "numbers.arrow"
_UNFINISHED = "unfinished-"
_ABANDONED_SECONDS = 7 * 24 * 3600


class ArrowStore:
    """A table, in memory or in the files of a folder.

    Files are mapped into memory, so that only what is read takes any; pickled, they travel as their name.

    Args:
        source: the table, or a folder with Arrow IPC streams (as ``datasets`` writes them) that hold its rows in
            order of their names, and what `write_numbers` made of them.
    """

    def __init__(self, source: pa.Table | Path) -> None:
        self.source = source

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source}

    def __len__(self) -> int:
        return self._numbers.num_rows

    @property
    def files(self) -> list[Path]:
        """The files that hold the rows; none of a table in memory."""
        return [] if isinstance(self.source, pa.Table) else _row_files(self.source)

    @cached_property
    def table(self) -> pa.Table:
        """The table; files are opened at the first use."""
        return self.source if isinstance(self.source, pa.Table) else pa.concat_tables(map(_mapped, self.files))

    @cached_property
    def _numbers(self) -> pa.Table:
        return self.source if isinstance(self.source, pa.Table) else _mapped(self.source / _NUMBERS)

    def numbers(self, column: str) -> np.ndarray:
        """Return a column of numbers as an array, ``[rows]``."""
        return self._numbers.column(column).to_numpy()

    def lists(self, column: str) -> "ListColumn":
        """Return a column of lists of numbers."""
        return ListColumn(self.table.column(column))


def write_numbers(folder: Path) -> None:
    """Write the columns of numbers of a folder's rows once more, side by side.

    A start reads them all; among the texts or tokens they would drag these into memory.
    """
    table = pa.concat_tables(map(_mapped, _row_files(folder)))
    numbers = table.select([field.name for field in table.schema if pa.types.is_primitive(field.type)])
    with pa.OSFile(str(folder / _NUMBERS), "wb") as sink, pa.ipc.new_stream(sink, numbers.schema) as stream:
        stream.write_table(numbers.combine_chunks())


def _row_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.arrow") if file.name != _NUMBERS)


def _mapped(file: Path) -> pa.Table:
    with pa.memory_map(str(file)) as mapped:
        return pa.ipc.open_stream(mapped).read_all()


class ListColumn:
    """Random access to a column of lists without copies: a row is a view of the mapped file, ``[items]``."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._values = [chunk.values.to_numpy() for chunk in chunks]

    def __getitem__(self, row: int) -> np.ndarray:
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        begin, end = self._offsets[chunk][row - self._starts[chunk] :][:2]
        return self._values[chunk][begin:end]


@contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """Give a new folder to write to; it is deleted in the end, unless `finish` moved it."""
    parent.mkdir(parents=True, exist_ok=True)
    for abandoned in parent.glob(f"{_UNFINISHED}*"):  # by a process that was killed
        with suppress(FileNotFoundError):  # somebody else clears up too
            if abandoned.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                shutil.rmtree(abandoned, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def finish(folder: Path, target: Path) -> None:
    """Give a folder its name, all at once: a run that was killed, or one beside us, leaves no half a folder behind.

    Where somebody else was faster, theirs is kept.
    """
    try:
        os.replace(folder, target)
    except OSError:
        if not target.is_dir():
            raise
