"""Read rows out of one file, whatever its format: one record at a time, with the number that errors name."""

import csv
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning_coba.data.reading.json_files import holds_array, holds_rows, read_json
from lightning_coba.data.reading.lines import numbered_lines
from lightning_coba.errors import UserError
from lightning_coba.user_files import open_file, refusals, shown

Fields = Mapping[str, Any]
Records = Iterator[tuple[int, Fields]]

_ROWS_PER_READ = 1024


def data_suffix(name: str) -> str | None:
    """Return how a data file's name ends, such as ``".jsonl.gz"``; None for the names of other files.

    Example:
        >>> data_suffix("train-00000-of-00002.parquet"), data_suffix("README.md")
        ('.parquet', None)
    """
    return next((suffix for suffix in FORMATS if name.lower().endswith(suffix)), None)


def read_file(file: Path) -> Records:
    """Yield (number, fields) of every record: lines count from 1, the rows of Parquet and of a JSON array from 0.

    A file of any other name is read as JSON.

    Raises:
        UserError: A record is not readable; the message names file and line, or file and row.
    """
    return FORMATS[data_suffix(file.name) or ".jsonl"](file)


def origin_prefix(file: Path) -> str:
    """Return what the number of a record is put behind to say where it comes from."""
    suffix = data_suffix(file.name) or ".jsonl"
    has_rows = suffix == ".parquet" or (FORMATS[suffix] is read_json and holds_array(file))
    return f"{file} row " if has_rows else f"{file}:"


def is_data_file(file: Path) -> bool:
    """Tell whether a file in a folder holds rows: by its name, and ``.json`` by its beginning too."""
    suffix = data_suffix(file.name)
    return suffix is not None and (suffix not in (".json", ".json.gz") or holds_rows(file))


def _read_csv(file: Path, delimiter: str = ",") -> Records:
    # Python's limit of 131,072 characters a cell is meant against files that are no CSV; prompts may be longer.
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader((line for _, line in numbered_lines(file)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        number = rows.line_num + 1  # where the record begins: a quoted cell may go over several lines
        try:
            cells = next(rows, None)
        except csv.Error as error:
            told = f"the line is not valid CSV ({error})."
            raise UserError(told, "Repair the row.", where=f"{file}:{number}") from None
        if cells is None:
            return
        if not cells:  # a blank line
            continue
        if header is None:
            header = _checked_header(cells, f"{file}:{number}")
        elif len(cells) > len(header):
            raise UserError(
                f"the row has {len(cells)} cells and the header {len(header)}.",
                f"Put cells that hold {delimiter!r} into double quotes.",
                where=f"{file}:{number}",
            )
        else:
            named = zip(header, cells, strict=False)
            yield number, {name: cell for name, cell in named if name}


def _checked_header(names: list[str], origin: str) -> list[str]:
    """Return the names of the columns; a column without one, such as the index that pandas writes, is left out."""
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"the header names the column {shown(twice)} twice.",
            "Rename one of the two; the first line of the file must be its header.",
            where=origin,
        )
    return names


def _read_parquet(file: Path) -> Records:
    from pyarrow import parquet

    open_file(file).close()  # refuses what is no file; Arrow reads faster by the name
    with (
        refusals("the file is not readable Parquet", "Write it again.", file),
        parquet.ParquetFile(file) as table,
    ):
        batches = table.iter_batches(batch_size=_ROWS_PER_READ)
        yield from enumerate(fields for batch in batches for fields in rows_of_batch(batch))


def rows_of_batch(batch: Any) -> list[Fields]:
    """Return the rows of an Arrow batch that a file holds; damage in it raises, where Arrow itself would crash."""
    batch.validate(full=True)
    return batch.to_pylist()


#: How a data file's name ends -> how it is read.
FORMATS: dict[str, Callable[[Path], Records]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json-lines", ".jsonl.gz", ".ndjson.gz", ".json", ".json.gz"), read_json),
    **dict.fromkeys((".csv", ".csv.gz"), _read_csv),
    **dict.fromkeys((".tsv", ".tsv.gz"), partial(_read_csv, delimiter="\t")),
    ".parquet": _read_parquet,
}
