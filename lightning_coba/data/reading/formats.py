"""Read rows out of one file, whatever its format: one record at a time, with the number that errors name."""

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from lightning_coba.errors import UserError

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
    """Yield (number, fields) of every record: lines count from 1, the rows of a Parquet file from 0.

    A file of any other name is read as JSON lines.

    Raises:
        UserError: A record is not readable; the message names file and line.
    """
    return FORMATS[data_suffix(file.name) or ".jsonl"](file)


def origin_prefix(file: Path) -> str:
    """Return what the number of a record is put behind to say where it comes from."""
    return f"{file} row " if data_suffix(file.name) == ".parquet" else f"{file}:"


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig")  # line by line, so that an error knows its line
            except UnicodeDecodeError as error:
                told = f"the line is not UTF-8 ({error.reason})."
                raise UserError(told, "Save the file as UTF-8.", where=f"{file}:{number}") from None
            yield number, text


def _open(file: Path) -> BinaryIO:
    return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb")  # type: ignore[return-value]


def _read_json_lines(file: Path) -> Records:
    for number, line in _lines(file):
        if line.strip():
            yield number, _parse(line.rstrip(), f"{file}:{number}")


def _parse(line: str, origin: str) -> Fields:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        array = " (A file that is one JSON array is not read: write one element per line.)" if line[0] == "[" else ""
        raise UserError(
            f"the line is not valid JSON ({error.msg}, column {error.colno}).",
            f"Write one JSON object per line, or delete the line.{array}",
            where=origin,
        ) from None
    if not isinstance(fields, dict):
        got = type(fields).__name__
        raise UserError(
            f"the line must be a JSON object; got {got}.",
            'Write {"prompt": ..., "completion": ...}.',
            where=origin,
        )
    return fields


def _read_csv(file: Path, delimiter: str = ",") -> Records:
    # Python's limit of 131,072 characters a cell is meant against files that are no CSV; prompts may be longer.
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader((line for _, line in _lines(file)), delimiter=delimiter, strict=True)
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
        if header is None:
            header = cells
        elif len(cells) > len(header):
            raise UserError(
                f"the row has {len(cells)} cells and the header {len(header)}.",
                f"Put cells that hold {delimiter!r} into double quotes.",
                where=f"{file}:{number}",
            )
        elif cells:
            yield number, dict(zip(header, cells, strict=False))


def _read_parquet(file: Path) -> Records:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            batches = table.iter_batches(batch_size=_ROWS_PER_READ)
            yield from enumerate(fields for batch in batches for fields in batch.to_pylist())
    except pa.ArrowException as error:
        raise UserError(f"the file is not readable Parquet ({error}).", "Write it again.", where=str(file)) from None


#: How a data file's name ends -> how it is read.
FORMATS: dict[str, Callable[[Path], Records]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json-lines", ".jsonl.gz", ".ndjson.gz"), _read_json_lines),
    **dict.fromkeys((".csv", ".csv.gz"), _read_csv),
    **dict.fromkeys((".tsv", ".tsv.gz"), partial(_read_csv, delimiter="\t")),
    ".parquet": _read_parquet,
}
