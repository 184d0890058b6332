"""Rows from files or Python objects, each with the place it came from, which every later error can name."""

import glob
import json
import string
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from lightning_coba.data.task import Source, Task

_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One example.

    Attributes:
        prompt: text that is read; may be empty.
        completion: text that is learned; never blank.
        origin: ``file:line``, or ``task 'name', split item i`` (from 0) of an iterable.
    """

    prompt: str
    completion: str
    origin: str


def read_split(task: Task, split: str) -> list[Row]:
    """Read one split of a task.

    Args:
        task: whose split to read; the split must be given.
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Returns:
        The rows in file order, at least one; blank lines are skipped.

    Raises:
        FileNotFoundError: No file is found; the message names task, split and path.
        ValueError: A line is not a JSON object, a column is missing, a prompt or completion is not a
            string, a completion is empty, or there is no row at all; the message names the file and line,
            or the item.
    """
    where = f"task {task.name!r}, {split}"
    rows = [_row(task, fields, origin) for fields, origin in _records(getattr(task, split), where)]
    if not rows:
        raise ValueError(f"The {split} split of task {task.name!r} is empty. Give it rows, or leave it out.")
    return rows


def _records(source: Source, where: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    if isinstance(source, str | PathLike):
        source = [source]
    item: Any
    for number, item in enumerate(source):
        if isinstance(item, str | PathLike):
            for file in _files(item, where):
                yield from _lines(file)
        elif isinstance(item, Mapping):
            yield item, f"{where} item {number}"
        else:
            raise ValueError(
                f"{where} item {number}: a row must be a dict such as {{'prompt': ..., 'completion': ...}}; "
                f"got {type(item).__name__}. Make it a dict, or give paths."
            )


def _files(path: str | PathLike[str], where: str) -> Iterable[Path]:
    given = Path(path).expanduser()
    if given.is_file():
        return [given]
    if given.is_dir():
        found = sorted(file for file in given.glob("*.jsonl") if file.is_file())
        missing = "the folder holds no *.jsonl file"
    elif glob.has_magic(str(given)):
        found = sorted(Path(match) for match in glob.glob(str(given), recursive=True) if Path(match).is_file())
        missing = "no file matches the pattern"
    else:
        found, missing = [], "there is no such file or folder"
    if not found:
        raise FileNotFoundError(
            f"{where}: {missing}: {str(given)!r} (read from {str(Path.cwd())!r}). Correct the path."
        )
    return found


def _lines(file: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    # Bytes, because text files also break lines at characters that JSON allows inside a string (U+2028).
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            text = line.removeprefix(_BOM) if number == 1 else line
            if text.strip():
                origin = f"{file}:{number}"
                yield _parse(text, origin), origin


def _parse(line: bytes, origin: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{origin}: the line is not UTF-8 ({error.reason}). Save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{origin}: the line is not valid JSON ({error.msg}, column {error.colno}). "
            "Write one JSON object a line, or delete the line."
        ) from None
    if not isinstance(fields, dict):
        raise ValueError(
            f"{origin}: the line must be a JSON object; got {type(fields).__name__}. "
            'Write {"prompt": ..., "completion": ...}.'
        )
    return fields


def _row(task: Task, fields: Mapping[str, Any], origin: str) -> Row:
    completion = _text(task, "completion", fields, origin)
    if not completion.strip():
        raise ValueError(f"{origin}: the completion is empty. Fill it in, or delete the row.")
    return Row(_text(task, "prompt", fields, origin), completion, origin)


def _text(task: Task, argument: str, fields: Mapping[str, Any], where: str) -> str:
    rule = getattr(task, argument)
    if "{" in rule:
        _check_template_columns(task, argument, fields, where)
        text = rule.format_map(fields)
    else:
        _check_column(task, argument, rule, fields, where)
        text = fields[rule]
        if not isinstance(text, str):
            raise ValueError(
                f"{where}: column {rule!r} ({argument}) must be a string; got {type(text).__name__}. "
                f"Write a string, or set {argument}='{{{rule}}}' in Task {task.name!r} to have it formatted."
            )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where}: the {argument} holds half of a surrogate pair, which is not text. Repair the row."
        ) from None
    return text


def _check_template_columns(task: Task, argument: str, fields: Mapping[str, Any], where: str) -> None:
    for _, field, _, _ in string.Formatter().parse(getattr(task, argument)):
        if field is None:
            continue
        column = field.replace("[", ".").split(".")[0]
        _check_column(task, argument, column, fields, where)
        # Formatted, None would silently train the model to write "None".
        if column == field and not isinstance(fields[column], str | int | float):
            raise ValueError(
                f"{where}: column {column!r} ({argument} template) must be a string or a number; "
                f"got {type(fields[column]).__name__}. Fill it in, or delete the row."
            )


def _check_column(task: Task, argument: str, column: str, fields: Mapping[str, Any], where: str) -> None:
    if column not in fields:
        raise ValueError(
            f"{where}: there is no column {column!r}, which Task {task.name!r} uses as {argument}. "
            f"The columns are {', '.join(map(repr, fields)) or 'none'}. Set Task.{argument} to one of them."
        )
