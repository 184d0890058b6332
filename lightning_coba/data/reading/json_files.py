"""Read rows out of a JSON file: one object per line, or one array of objects."""

import codecs
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_coba.data.reading.lines import chunks, numbered_lines
from lightning_coba.errors import UserError
from lightning_coba.user_files import decoded, parse_json

_WRITE_ONE = 'Write {"prompt": ..., "completion": ...}.'
_WRITE_ALL = "Write one object per line, or one array of objects: [{...}, {...}]."


def read_json(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (number, fields) of every object: lines count from 1, the objects of an array from 0.

    Raises:
        UserError: A record is not readable; the message names file and line, or the number of the object.
    """
    return _objects_of_array(file) if holds_array(file) else _objects_per_line(file)


def holds_array(file: Path) -> bool:
    """Whether a file is one JSON array; False where it cannot be read, which reading it tells."""
    return _first_lines(file, unreadable=())[:1] == (b"[",)


def holds_rows(file: Path) -> bool:
    """Whether a file is an array or has an object per line, and is not one object such as ``dataset_info.json``.

    A file that cannot be read counts as one of rows: reading it tells why.
    """
    first = _first_lines(file, unreadable=(b"[",))
    return first[:1] == (b"[",) or first == (b"{", b"{")


def _first_lines(file: Path, unreadable: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return how the first two lines that are not blank begin, a byte each."""
    try:
        lines = (line.removeprefix(codecs.BOM_UTF8).strip() for line in chunks(file))
        return tuple(line[:1] for line in itertools.islice(filter(None, lines), 2))
    except UserError:
        return unreadable


def _objects_per_line(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in numbered_lines(file):
        if line.strip():
            origin = f"{file}:{number}"
            begins_object = line.strip() == "{"  # an object over several lines, as an editor shows it
            cure = _WRITE_ALL if begins_object else "Write one JSON object per line, or delete the line."
            yield number, _checked(_parsed(line.rstrip(), origin, "the line", cure), origin, "the line")


def _objects_of_array(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = decoded(b"".join(chunks(file)), file)
    for number, value in enumerate(_parsed(text, str(file), "the file", _WRITE_ALL)):
        yield number, _checked(value, f"{file} row {number}", "the row")


def _parsed(text: str, origin: str, told: str, cure: str) -> Any:
    # JSON has no word for NaN and infinity: what writes them nevertheless has no value there.
    return parse_json(text, origin, told, cure, constant=lambda word: None)


def _checked(value: Any, origin: str, told: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{told} must be a JSON object; got {type(value).__name__}.", _WRITE_ONE, where=origin)
    return value
