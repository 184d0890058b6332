"""Files that others wrote: what is wrong with one is said with its name and line, whichever library reads it."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lightning_coba.errors import MissingFileError, SettingError, UserError

#: Lists and objects within each other; what writes deeper has gone wrong, and Python's own limit lies near.
MOST_NESTED = 100
#: Characters of a value, or of what a library says, that a message shows.
MOST_SHOWN = 200
#: How files begin that are no text -> what to do.
_NO_TEXT = {
    b"\xff\xfe": ("UTF-16", "Save the file as UTF-8."),
    b"\xfe\xff": ("UTF-16", "Save the file as UTF-8."),
    b"\x1f\x8b": ("compressed with gzip", "Rename it to end in .gz."),
    b"PAR1": ("a Parquet file", "Rename it to end in .parquet."),
    b"PK\x03\x04": ("a ZIP archive (an Excel file, perhaps)", "Unpack it, or save the table as CSV."),
    b"BZh": ("compressed with bzip2", "Unpack it."),
    b"\xfd7zXZ": ("compressed with xz", "Unpack it."),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "Unpack it."),
    b"SQLite format 3": ("an SQLite database", "Save the table as CSV."),
}
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def refusals(told: str, cure: str, where: object) -> Iterator[None]:
    """Turn whatever a library raises about a file into a `UserError`.

    Libraries raise what they like about a damaged file, of many types. Only calls of the library belong into the block:
    a fault of ours in it would be told as the user's.

    Args:
        told: What is wrong then, a clause without its full stop; what the library says is put behind it.
        cure: What to do, a sentence.
        where: The file, with its line where that is known.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno is None:  # some libraries raise it for damaged contents
            raise UserError(f"{told} ({reason(error)}).", cure, where=str(where)) from error
        raise _unreadable(error, where) from error
    except Exception as error:
        raise UserError(f"{told} ({reason(error)}).", cure, where=str(where)) from error


@contextmanager
def refused_setting(key: str) -> Iterator[None]:
    """Turn what a class of another package raises about its arguments into a `SettingError`.

    Args:
        key: What holds the arguments, such as ``optimizer``.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise SettingError(f"`{key}` is refused ({reason(error)}).", "Correct its settings.", key=key) from error


def reason(error: BaseException) -> str:
    """Return what an exception of a library says, as a part of a sentence on one line."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, KeyError):
        text = f"no {text}"
    return _cut(text)


def shown(value: Any) -> str:
    """Return a value of a file as a message shows it: in quotes where it is text, and cut where it is long."""
    return _cut(repr(value[: 2 * MOST_SHOWN] if isinstance(value, str | bytes | list | tuple) else value))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} ..."


def kind_of(file: Path) -> str:
    """Return what a path leads to: "a file", "a folder", "a pipe", "a broken link", "nothing" and so on."""
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError) as error:
        if not os.path.islink(file):  # which no name is too long for
            return "nothing" if isinstance(error, FileNotFoundError | ValueError) else f"unreadable ({error.strerror})"
        return "a broken link"
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a file")


def open_file(file: Path) -> BinaryIO:
    """Open a file for reading; what would hang or could not be read twice, such as a pipe, is refused."""
    with refusals("the file cannot be read", "Check it.", file):
        mode = file.stat().st_mode
        if kind := next((kind for is_kind, kind in _KINDS if is_kind(mode)), None):
            raise UserError(f"it is {kind}, not a file.", "Save the contents as a file, and give that.", str(file))
        return file.open("rb")


def read_text(file: Path) -> str:
    """Return a text file as a whole; a byte-order mark is left out.

    Raises:
        UserError: It cannot be read, or is not UTF-8.
    """
    with open_file(file) as stream, refusals("the file cannot be read", "Check its disk.", file):
        content = stream.read()
    return decoded(content, file)


def decoded(content: bytes, file: Path) -> str:
    """Return the text that a file holds; a byte-order mark is left out.

    Raises:
        UserError: It is not UTF-8; the message names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise not_text(content, error, f"{file}:{line}") from None


def not_text(content: bytes, error: UnicodeDecodeError, where: str) -> UserError:
    """Return what is wrong with bytes that are not UTF-8.

    Args:
        content: The bytes, from the beginning of the file or of a line.
        error: What decoding them raised.
        where: File and line.
    """
    for beginning, (kind, cure) in _NO_TEXT.items():
        if content.startswith(beginning):
            return UserError(f"the file is {kind}, not text in UTF-8.", cure, where=where)
    return UserError(f"the line is not UTF-8 ({error.reason}).", "Save the file as UTF-8.", where=where)


def parse_json(
    text: str, where: str, told: str = "the file", cure: str = "Correct it.", constant: Callable[[str], Any] = float
) -> Any:
    """Return what a JSON text says.

    Args:
        text: The text.
        where: File and line, for the error.
        told: What the text is, such as "the line"; begins the error.
        cure: What to do where it is no JSON.
        constant: What becomes of NaN, Infinity and -Infinity, which JSON does not have.
    """
    try:
        value = json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column" if error.lineno > 1 else "column"
        nul = " (with a NUL byte)" if "\x00" in text else ""
        raise UserError(f"{told}{nul} is not valid JSON ({error.msg}, {place} {error.colno}).", cure, where) from None
    except RecursionError:
        raise _too_deep(told, where) from None
    except ValueError:  # Python's limit of 4,300 digits
        raise UserError(
            f"{told} has an integer with thousands of digits.", "Put it in quotes, or leave it out.", where
        ) from None
    if text.count("[") + text.count("{") > MOST_NESTED and _is_deep(value):
        raise _too_deep(told, where)
    return value


def _too_deep(told: str, where: str) -> UserError:
    return UserError(
        f"{told} nests lists or objects more than {MOST_NESTED} deep.", "Flatten it, or leave it out.", where=where
    )


def _is_deep(value: Any) -> bool:
    """Whether lists and dicts nest deeper than `MOST_NESTED`, found without recursion."""
    level = [value]
    for _ in range(MOST_NESTED):
        within = [entry.values() if isinstance(entry, dict) else entry for entry in level]
        level = [one for entries in within for one in entries if isinstance(one, dict | list)] if level else []
        if not level:
            return False
    return True


def _unreadable(error: OSError, where: object) -> UserError:
    kind = MissingFileError if isinstance(error, FileNotFoundError) else UserError
    said = error.strerror or os.strerror(error.errno or 0)
    return kind(f"the file cannot be read ({said}).", "Check the path and its permissions.", where=str(where))
