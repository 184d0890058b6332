"""What a task is: a name, where its splits come from, and how a row becomes what is read and what is learned."""

import json
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from glob import has_magic
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_warn

from lightning_coba.data.reading.arrow_store import fingerprint, kept, new_store
from lightning_coba.data.reading.files import (
    SPLIT_NAMES,
    data_files,
    entries_of,
    find_files,
    saved_splits,
    split_sources,
    stamp,
    stem,
    task_of,
)
from lightning_coba.data.reading.formats import origin_prefix, read_file
from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.user_files import kind_of, shown

SPLITS = ("train", "validation", "test")

Source = str | PathLike[str] | Iterable[str | PathLike[str]] | Iterable[Mapping[str, Any]]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # neither "..", nor what a command takes for an option
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]|^[.-]")
_VALUES = pa.schema([("value", pa.string())])  # each as JSON

_LAYOUT = (
    "The expected layout is\n  {root}/<task>/train.jsonl\n  {root}/<task>/validation.jsonl   (optional)\n"
    '  {root}/<task>/test.jsonl         (optional)\nwith one {{"prompt": ..., "completion": ...}} or '
    '{{"messages": [...]}} a line. Instead of .jsonl: .ndjson, .csv, .tsv, .parquet, .jsonl.gz. Instead of one\n'
    "file: train-00000-of-00002.parquet and so on, a folder train/, or a saved DatasetDict as <task>. Files of other\n"
    "names are train, of which the other splits are carved. Or one file with the rows of all tasks and a column 'task'."
)


@dataclass(frozen=True)
class Task:
    r"""One of the tasks that a model is fine-tuned on together.

    Args:
        name: letters, digits, ``_``, and behind the first of them ``.`` and ``-`` too; it becomes part of log keys,
            tables and file names.
        train: where the rows come from: the path of a JSONL, CSV, TSV or Parquet file (``.gz`` too, but for
            Parquet), a glob, a folder of such files, a folder of ``datasets``' ``save_to_disk``, a list of paths;
            ``"org/name"`` or ``"org/name:config"`` of the Hugging Face hub; a ``datasets`` object; or any iterable
            of dict rows, which may be a generator larger than memory.
        validation: the same; ``None`` = the split of this name where ``train`` is a ``DatasetDict`` (or its folder)
            that has one, else a tenth of ``train`` is carved.
        test: the same.
        prompt: the column that holds the prompt, or a template with column names in braces; ``{{`` and ``}}``
            stand for braces.
        completion: the same for the text that is learned.
        where: column -> value: only the rows that have all these values are read.
        chat: whether prompt and completion are rendered with the model's chat template, as a user's and an
            assistant's turn. ``None``: rows with ``messages`` that lack a prompt or completion are, and rows whose
            prompt and completion are lists of messages; ``True``: all rows; ``False``: none.
        messages: the column that holds conversations: a list of ``{"role": ..., "content": ...}``. All
            assistant's turns are learned.
        max_rows: most rows of this task in an epoch, at least 1; ``None`` = no limit.
        repeats: how often an epoch shows each row, above 0; 0.5 shows every other row.

    Raises:
        ValueError: The name has other characters, a template does not parse, or a value is outside its domain.

    Example:
        >>> rows = [{"en": "yes", "de": "ja"}]
        >>> Task("german", rows, prompt="Translate to German: {en}\n", completion="de").name
        'german'
    """

    name: str
    train: Source
    validation: Source | None = None
    test: Source | None = None
    prompt: str = "prompt"
    completion: str = "completion"
    where: Mapping[str, Any] | None = None
    chat: bool | None = None
    messages: str = "messages"
    max_rows: int | None = None
    repeats: float = 1

    def __post_init__(self) -> None:
        for split in ("validation", "test"):
            if getattr(self, split) is None and split in _splits_within(self.train):
                object.__setattr__(self, split, self.train)
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise UserError(
                f"`Task.name` must match {_NAME.pattern}, because it becomes part of log keys, tables and file names; "
                f"got {self.name!r}.",
                "Replace the other characters, for example by '_'.",
            )
        for argument in ("prompt", "completion"):
            _check_text_rule(self.name, argument, getattr(self, argument))
        self._check_options()

    def _check_options(self) -> None:
        where_is_usable = self.where is None or (
            isinstance(self.where, Mapping) and self.where and all(isinstance(column, str) for column in self.where)
        )
        max_rows_is_usable = self.max_rows is None or (_is_number(self.max_rows, int) and self.max_rows >= 1)
        splits_are_usable = {
            split: isinstance(source, str | PathLike | Iterable) or (source is None and split != "train")
            for split, source in zip(SPLITS, (self.train, self.validation, self.test), strict=True)
        }
        source, file = "a path, a list of paths or an iterable of dict rows", "Give the file that holds the rows."
        for argument, usable, domain, cure in (
            *((split, usable, source, file) for split, usable in splits_are_usable.items()),
            ("where", where_is_usable, "None or a dict of column: value", "Write where={'task': 'qa'}."),
            ("chat", self.chat in (None, True, False), "True, False or None", "Choose one."),
            ("messages", isinstance(self.messages, str) and self.messages, "a column name", "Name the column."),
            ("max_rows", max_rows_is_usable, "a whole number of at least 1 or None", "Choose such a number."),
            (
                "repeats",
                _is_number(self.repeats, int | float) and isfinite(self.repeats) and self.repeats > 0,
                "a finite number above 0",
                "Use 1 to show each row once an epoch.",
            ),
        ):
            if not usable:
                got = getattr(self, argument)
                raise UserError(f"`Task.{argument}` must be {domain}; got {got!r} for task {self.name!r}.", cure)


def _splits_within(source: Any) -> Iterable[str]:
    """Return the splits that a source of several has by name."""
    if isinstance(source, Mapping):
        return source
    is_path = isinstance(source, str | PathLike)
    return (saved_splits(Path(source).expanduser()) if is_path else None) or ()


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_text_rule(task: str, argument: str, rule: str) -> None:
    if not isinstance(rule, str) or not rule:
        cure = f"Name the column that holds the {argument}."
    else:
        try:
            template_columns(rule)
            return
        except ValueError as error:
            cure = f"({error}) Write '{{{{' and '}}}}' for literal braces."
    raise UserError(
        f"`Task.{argument}` must be a column name or a template such as '{{text}}\\n'; got {rule!r} for task {task!r}.",
        cure,
    )


@lru_cache
def template_columns(rule: str) -> list[tuple[str, bool]]:
    """Return the columns of a template, and whether each stands there itself (not one of its items).

    A rule without braces is the name of one column.

    Raises:
        ValueError: It is no template, or its braces hold something else.
    """
    if "{" not in rule:
        return [(rule, True)]
    fields = [field for _, field, _, _ in string.Formatter().parse(rule) if field is not None]
    if not fields or any(field == "" or field[0].isdigit() for field in fields):
        raise UserError("Braces must hold column names.")
    columns = [field.replace("[", ".").split(".")[0] for field in fields]
    return [(column, column == field) for column, field in zip(columns, fields, strict=True)]


def tasks_at(root: str | PathLike[str], column: str = "task", **rules: Any) -> list[Task]:
    """Find the tasks of a folder or file, whichever way they lie there.

    Args:
        root: one of these:

            - A folder with one sub-folder per task, which is named after it. In it the files ``train``, ``validation``
              and ``test`` (as ``.jsonl``, ``.ndjson``, ``.csv``, ``.tsv``, ``.parquet`` or ``.jsonl.gz``, also in
              shards such as ``train-00000-of-00002.parquet``, or as folders of files) are the splits; only train
              is required. A folder that ``datasets.DatasetDict.save_to_disk`` wrote is a task too. Where no file is
              named after a split, all of them are train.
            - A folder with one file per task, which is named after it (but for the ``-00000-of-00002`` of its parts).
            - A file (or a glob, or a folder with files named after splits) in which a column names the task of each
              row. The rows of one file are train, of which validation and test are carved.
        column: the column that holds the task's name.
        **rules: further arguments for every `Task`, such as ``prompt="question"``.

    Returns:
        The tasks, sorted by name; characters that a name may not have became ``_``.

    Raises:
        FileNotFoundError: There is no such folder or file, or nothing in it; the message shows the expected layout.
        ValueError: A row names no task, or two names become the same.
    """
    place = Path(root).expanduser()
    kind = kind_of(place)
    if kind not in ("a folder", "nothing") or (kind == "nothing" and has_magic(str(place))):
        return _tasks_of_column({"train": place}, place, column, rules)
    files = data_files(place) if kind == "a folder" else []
    if not files or any(split_sources(home) for home in entries_of(place) if home.is_dir()):
        return _tasks_of_folders(place, rules)
    names = {name for names in SPLIT_NAMES.values() for name in names}
    _, first = next(read_file(files[0]), (0, {}))
    if names & {stem(file) for file in files} or column in first:
        return _tasks_of_column(split_sources(place), place, column, rules)
    by_name: dict[str, list[Path]] = {}
    for file in files:
        by_name.setdefault(task_of(file), []).append(file)
    return [Task(name, paths, **rules) for name, paths in sorted(by_name.items())]


def _tasks_of_folders(folder: Path, rules: Mapping[str, Any]) -> list[Task]:
    layout = _LAYOUT.format(root=folder)
    if not folder.is_dir():
        raise MissingFileError(f"`tasks_at.root` must be a folder or a file; got {str(folder)!r}.", layout)
    homes = (home for home in entries_of(folder) if home.is_dir() and not home.name.startswith("."))
    found = {home.name: split_sources(home) for home in homes}
    if not any(found.values()):
        raise MissingFileError(f"No task was found in {str(folder)!r}.", layout)
    left = [name for name, sources in found.items() if not sources and not name.startswith("_")]
    left += [file.name for file in data_files(folder)]
    if left:
        rank_zero_warn(
            f"In {str(folder)!r} the tasks are sub-folders, and these are left out: {', '.join(left)}. A sub-folder "
            "needs data files (.jsonl, .csv, .tsv, .parquet); a file belongs into one."
        )
    return [Task(name, **sources, **rules) for name, sources in found.items() if sources]


def _tasks_of_column(sources: Mapping[str, Any], path: Path, column: str, rules: Mapping[str, Any]) -> list[Task]:
    tasks: dict[str, Task] = {}
    for value in _values_in_column(path, column):
        name = _NOT_IN_NAMES.sub("_", str(value))
        if name in tasks:
            other = (tasks[name].where or {})[column]
            raise UserError(
                f"the tasks {other!r} and {value!r} of column {column!r} would both be named {name!r}.",
                "Rename one of them.",
                where=str(path),
            )
        tasks[name] = Task(name, **sources, where={column: value}, **rules)
    if not tasks:
        raise UserError("there is no row.", f"Give it rows with a column {column!r}.", where=str(path))
    return [tasks[name] for name in sorted(tasks)]


def _values_in_column(path: Path, column: str) -> list[Any]:
    """Return the different values of a column, in order of appearance; they are kept until the files change."""
    files = find_files(path, "tasks_at.root")
    key = fingerprint(column, [stamp(file) for file in files])
    store = kept("columns", key)
    if store is None:
        values = dict.fromkeys(value for file in files for value in _task_values(file, column))
        with new_store("columns", _VALUES, key) as new:
            new.write(pa.table([[json.dumps(value) for value in values]], schema=_VALUES))
        store = new.store
    return [json.loads(value) for value in store.table.column("value").to_pylist()]


def _task_values(file: Path, column: str) -> Iterator[str | int]:
    for number, fields in read_file(file):
        value = fields.get(column)
        if not isinstance(value, str | int) or value == "":
            raise UserError(
                f"column {column!r} must name the row's task; got {shown(value)}.",
                f"The columns are {', '.join(map(repr, fields)) or 'none'}. Fill it in, or name another column.",
                where=f"{origin_prefix(file)}{number}",
            )
        yield value
