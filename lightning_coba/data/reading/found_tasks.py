"""Find the tasks that lie in a folder, in a file or on the Hugging Face hub, and what lies there unread."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from itertools import pairwise
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
    is_saved_dataset,
    saved_splits,
    split_sources,
    stamp,
    stem,
    task_of,
)
from lightning_coba.data.reading.formats import origin_prefix, read_file
from lightning_coba.data.reading.hub import hub_id, unmarked_hub_id
from lightning_coba.data.reading.root import Root, suite_of
from lightning_coba.data.reading.slug import slugs
from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.user_files import kind_of, shown

_VALUES = pa.schema([("value", pa.string())])  # each as JSON
_MOST_NAMED = 8

_LAYOUT = """The expected layout is
  {root}/<task>/train.jsonl
  {root}/<task>/validation.jsonl   (optional)
  {root}/<task>/test.jsonl         (optional)
with one {{"prompt": ..., "completion": ...}} or {{"messages": [...]}} per row. Other formats: .json (an array of
objects), .ndjson, .csv, .tsv, .parquet, .jsonl.gz. Instead of one file per split: train-00000-of-00002.parquet and so
on, a folder train/, or a saved DatasetDict as <task>. Where no file is named after a split, all are train, of which the
other splits are carved. Or one file with the rows of all tasks and a column 'task'."""


@dataclass(frozen=True)
class FoundTasks:
    """What was found, and how it was taken.

    Attributes:
        tasks: The tasks, sorted by name.
        renamed: Name of a task -> what it is called in the data, where that is no name of a task.
        unread: Paths of what lies in the folder and holds no row of any task; of a folder of such files, its own.
    """

    tasks: list[Task]
    renamed: Mapping[str, str] = field(default_factory=dict)
    unread: Sequence[str] = ()


def tasks_at(root: Root, column: str = "task", **rules: Any) -> list[Task]:
    """Find the tasks of a folder, a file or a data set of the hub, whichever way they lie there.

    Args:
        root: One of these, or a list of several:

            - A folder with one sub-folder per task, which is named after it. In it the files ``train``, ``validation``
              and ``test`` (as ``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet`` or ``.jsonl.gz``, also in shards
              such as ``train-00000-of-00002.parquet``, or as folders of files) are the splits; only train is required.
              A folder that ``datasets.DatasetDict.save_to_disk`` wrote is a task too. Where no file is named after a
              split, all of them are train.
            - A folder with one file per task, which is named after it (but for the ``-00000-of-00002`` of its parts).
            - A file (or a glob, or a folder with files named after splits) in which a column names the task of each
              row. The rows of one file are train, of which validation and test are carved.
            - ``"hf:org/name"`` or ``"hf:org/name:config"``: a data set of the Hugging Face hub, which is one task.
        column: The column that holds the task's name.
        **rules: Further arguments for every `Task`, such as ``prompt="question"``.

    Returns:
        The tasks, sorted by name. A name that a task may not have is changed, see
        `lightning_coba.data.reading.slug.slugs`. That is warned of, and so is what lies in a folder and is not read.

    Raises:
        FileNotFoundError: There is no such folder or file, or nothing in it; the message shows the expected layout.
        ValueError: A row names no task, or two entries of a list have a task of the same name.
    """
    found = find_tasks(root, column, **rules)
    announce(found)
    return found.tasks


def announce(found: FoundTasks) -> None:
    """Warn of tasks that were renamed, and of what is not read."""
    if found.renamed:
        rank_zero_warn(
            "Names of tasks may hold letters without accents, digits, '_', '.' and '-'. Renamed: "
            f"{_listed(f'{original!r} to {name!r}' for name, original in found.renamed.items())}."
        )
    if found.unread:
        rank_zero_warn(
            f"Not read: {_listed(found.unread)}. Rows are read from files that end in .jsonl, .json, .csv, .tsv or "
            ".parquet; where each task has a folder, they lie directly in it."
        )


def _listed(names: Iterable[str]) -> str:
    told = list(names)
    more = len(told) - _MOST_NAMED
    return ", ".join(told[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def find_tasks(root: Root, column: str = "task", **rules: Any) -> FoundTasks:
    """Do as `tasks_at`, without saying anything."""
    if not isinstance(root, str | PathLike):
        return _joined([find_tasks(one, column, **rules) for one in root])
    if hub_id(str(root)):
        return FoundTasks([Task(suite_of(root), str(root), **rules)])
    place = Path(root).expanduser()
    kind = kind_of(place)
    if kind not in ("a folder", "nothing") or (kind == "nothing" and has_magic(str(place))):
        return _tasks_of_column({"train": place}, place, column, rules)
    if kind == "nothing":
        on_hub = unmarked_hub_id(Path(root))
        meant = f"For the data set of the Hugging Face hub, write hf:{on_hub}. " if on_hub else ""
        raise MissingFileError(
            f"There is no folder or file {str(place)!r} (read from {str(Path.cwd())!r}).",
            meant + _LAYOUT.format(root=place),
        )
    found = _tasks_of_folder(place, column, rules)
    return FoundTasks(found.tasks, found.renamed, [str(path) for path in _unread(place, found.tasks)])


def _joined(found: Sequence[FoundTasks]) -> FoundTasks:
    tasks = sorted((task for one in found for task in one.tasks), key=lambda task: task.name)
    for task, other in pairwise(tasks):
        if task.name == other.name:
            raise UserError(f"two of the places have a task named {task.name!r}.", "Rename one of the two.")
    renamed = {name: original for one in found for name, original in one.renamed.items()}
    return FoundTasks(tasks, renamed, [path for one in found for path in one.unread])


def _named(sources: Mapping[str, Mapping[str, Any]], rules: Mapping[str, Any]) -> FoundTasks:
    """Make tasks of what they are called in the data and the arguments of each."""
    names = dict(zip(sources, slugs(list(sources)), strict=True))
    tasks = [Task(names[text], **arguments, **rules) for text, arguments in sources.items()]
    renamed = {name: text for text, name in names.items() if name != text}
    return FoundTasks(sorted(tasks, key=lambda task: task.name), renamed)


def _tasks_of_folder(folder: Path, column: str, rules: Mapping[str, Any]) -> FoundTasks:
    files = data_files(folder)
    homes = [home for home in entries_of(folder) if home.is_dir() and not home.name.startswith(".")]
    by_folder = {home.name: sources for home in homes if (sources := split_sources(home))}
    if by_folder:
        return _named(by_folder, rules)
    if not files:
        there = _listed(entry.name for entry in entries_of(folder)) or "nothing"
        raise MissingFileError(
            f"No task was found in {str(folder)!r}, which holds {there}.", _LAYOUT.format(root=folder)
        )
    names = {name for names in SPLIT_NAMES.values() for name in names}
    _, first = next(read_file(files[0]), (0, {}))
    if names & {stem(file) for file in files} or column in first:
        return _tasks_of_column(split_sources(folder), folder, column, rules)
    by_name: dict[str, list[Path]] = {}
    for file in files:
        by_name.setdefault(task_of(file), []).append(file)
    return _named({name: {"train": paths} for name, paths in by_name.items()}, rules)


def _unread(folder: Path, tasks: Sequence[Task]) -> Iterator[Path]:
    """Yield what lies in a folder and no task reads; of a folder without any that is read, its name alone."""
    sources = [source for task in tasks for split in SPLITS if (source := getattr(task, split)) is not None]
    return _others(folder, {path for source in sources for path in _paths_of(source)})


def _paths_of(source: Any) -> list[Path]:
    if not isinstance(source, Path):
        return [path for one in source for path in _paths_of(one)]
    is_saved = source.is_dir() and (is_saved_dataset(source) or saved_splits(source) is not None)
    return [source] if is_saved else find_files(source, str(source))


def _others(folder: Path, read: set[Path]) -> Iterator[Path]:
    for entry in entries_of(folder):
        if entry in read or entry.name.startswith((".", "_", "README", "LICENSE")):
            continue
        if any(entry in path.parents for path in read):
            yield from _others(entry, read)
        else:
            yield entry


def _tasks_of_column(sources: Mapping[str, Any], path: Path, column: str, rules: Mapping[str, Any]) -> FoundTasks:
    values = _values_in_column(path, column)
    if not values:
        raise UserError("there is no row.", f"Give it rows with a column {column!r}.", where=str(path))
    names = slugs([str(value) for value in values])
    tasks = [Task(name, **sources, where={column: value}, **rules) for name, value in zip(names, values, strict=True)]
    renamed = {name: str(value) for name, value in zip(names, values, strict=True) if name != str(value)}
    return FoundTasks(sorted(tasks, key=lambda task: task.name), renamed)


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
                f"The columns are {', '.join(map(repr, fields)) or 'none'}. Fill it in; where each file is one task, "
                "give the folder of the files.",
                where=f"{origin_prefix(file)}{number}",
            )
        yield value
