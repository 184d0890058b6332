"""Read rows out of one file, whatever its format: one record at a time, with the number that errors name."""

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

Fields = Mapping[str, Any]
Records = Iterator[tuple[int, Fields]]

_BOM = b"\xef\xbb\xbf"
_ROWS_PER_READ = 1024


class _Format(NamedTuple):
    read: Callable[[Path], Records]
    unit: str  # what stands between the file and the number of a record


def is_data_file(path: Path) -> bool:
    """Whether the name ends as the names of data files do; a folder's other files are left alone."""
    return data_suffix(path.name) is not None


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
        ValueError: A record is not readable; the message names file and line.
    """
    return _format(file).read(file)


def origin_prefix(file: Path) -> str:
    """Return what the number of a record is put behind to say where it comes from."""
    return f"{file}{_format(file).unit}"


def _format(file: Path) -> _Format:
    return FORMATS[data_suffix(file.name) or ".jsonl"]


def _open(file: Path) -> BinaryIO:
    return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb")  # type: ignore[return-value]


def _read_json_lines(file: Path) -> Records:
    # Bytes, because text files also break lines at characters that JSON allows inside a string (U+2028).
    with _open(file) as stream:
        for number, line in enumerate(stream, start=1):
            text = line.removeprefix(_BOM) if number == 1 else line
            if text.strip():
                yield number, _parse(text, f"{file}:{number}")


def _parse(line: bytes, origin: str) -> Fields:
    try:
        fields = json.loads(line.decode("utf-8").rstrip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{origin}: the line is not UTF-8 ({error.reason}). Save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        array = (
            " (A file that is one JSON array is not read: write its elements one a line.)" if line[:1] == b"[" else ""
        )
        raise ValueError(
            f"{origin}: the line is not valid JSON ({error.msg}, column {error.colno}). "
            f"Write one JSON object a line, or delete the line.{array}"
        ) from None
    if not isinstance(fields, dict):
        raise ValueError(
            f"{origin}: the line must be a JSON object; got {type(fields).__name__}. "
            'Write {"prompt": ..., "completion": ...}.'
        )
    return fields


def _read_csv(file: Path, delimiter: str = ",") -> Records:
    # Python's limit of 131,072 characters a cell is meant against files that are no CSV; prompts may be longer.
    csv.field_size_limit(sys.maxsize)
    with _open(file) as stream:
        lines = (_decoded(line, f"{file}:{number}") for number, line in enumerate(stream, start=1))
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            number = rows.line_num + 1  # where the record begins: a quoted cell may go over several lines
            try:
                cells = next(rows, None)
            except csv.Error as error:
                raise ValueError(f"{file}:{number}: the line is not valid CSV ({error}). Repair the row.") from None
            if cells is None:
                return
            if header is None:
                header = cells
            elif len(cells) > len(header):
                raise ValueError(
                    f"{file}:{number}: the row has {len(cells)} cells and the header {len(header)}. "
                    f"Put cells that hold {delimiter!r} into double quotes."
                )
            elif cells:
                yield number, dict(zip(header, cells, strict=False))


def _read_tsv(file: Path) -> Records:
    return _read_csv(file, "\t")


def _decoded(line: bytes, origin: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{origin}: the line is not UTF-8 ({error.reason}). Save the file as UTF-8.") from None


def _read_parquet(file: Path) -> Records:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=_ROWS_PER_READ):
                for fields in batch.to_pylist():
                    yield number, fields
                    number += 1
    except pa.ArrowException as error:
        raise ValueError(f"{file} is not a readable Parquet file ({error}). Write it again.") from None


#: How a data file's name ends -> how it is read.
FORMATS: dict[str, _Format] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json-lines"), _Format(_read_json_lines, ":")),
    **dict.fromkeys((".jsonl.gz", ".ndjson.gz"), _Format(_read_json_lines, ":")),
    **dict.fromkeys((".csv", ".csv.gz"), _Format(_read_csv, ":")),
    **dict.fromkeys((".tsv", ".tsv.gz"), _Format(_read_tsv, ":")),
    ".parquet": _Format(_read_parquet, " row "),
}
