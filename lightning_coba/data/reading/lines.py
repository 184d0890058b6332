"""The bytes and lines of a text file that may be compressed."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from lightning_coba.user_files import not_text, open_file, refusals


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines with their numbers from 1, ended by line feeds, carriage returns, or both."""
    lines = (line for chunk in chunks(file) for line in chunk.splitlines(keepends=True))
    for number, line in enumerate(lines, start=1):
        try:
            yield number, line.decode("utf-8-sig")  # line by line, so that an error knows its line
        except UnicodeDecodeError as error:
            raise not_text(line, error, f"{file}:{number}") from None


def chunks(file: Path) -> Iterator[bytes]:
    """Yield what lies between two line feeds."""
    is_packed = file.suffix.lower() == ".gz"
    told = "the file is not readable gzip" if is_packed else "the file cannot be read"
    cure = "Compress it again, or take .gz off its name." if is_packed else "Check its disk."
    with open_file(file) as stream, refusals(told, cure, file):
        yield from gzip.GzipFile(fileobj=stream) if is_packed else stream
