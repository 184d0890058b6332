"""The rows of each task as an Arrow table: read once, kept on disk, recognised while their files are the same."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from lightning_coba.cache_folder import cache_folder
from lightning_coba.data.reading.arrow_store import ArrowStore, finish, unfinished_folder, write_numbers
from lightning_coba.data.reading.rows import digest, matches, row_of
from lightning_coba.data.reading.sources import Part, parts_of
from lightning_coba.data.reading.task import SPLITS, Task

#: Python rows up to here are kept in memory; more are written to disk, as rows of files are.
MOST_ROWS_IN_MEMORY = 20_000

_FORMAT = 1  # another number makes all older files stale
_ROWS = "rows.arrow"
_ROWS_PER_BATCH = 1000
_SCHEMA = pa.schema(
    [
        ("split", pa.uint8()),  # index into SPLITS
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("messages", pa.string()),  # JSON, or null
        ("part", pa.int32()),  # index into the origins
        ("number", pa.int64()),  # of the record within its part
        ("identity", pa.uint64()),  # equal for equal prompts; carving takes the lowest
        ("subset_rank", pa.uint64()),  # the evaluated subset is the lowest of these
    ]
)


class RowTable:
    """All rows of a task as text, with where they came from.

    Args:
        store: a table with the columns of ``_SCHEMA``.
        fingerprint: names the rows; ``None`` for rows in memory, which are not kept.
    """

    def __init__(self, store: ArrowStore, fingerprint: str | None = None) -> None:
        self.store = store
        self.fingerprint = fingerprint

    @cached_property
    def origins(self) -> list[str]:
        """What the number of a row is put behind, for each part."""
        return json.loads(self.store.table.schema.metadata[b"origins"])

    def origin(self, row: int) -> str:
        """Return where a row came from: ``file:line``, or a file or task and the number of the record in it."""
        part, number = (self.store.table.column(name)[row].as_py() for name in ("part", "number"))
        return f"{self.origins[part]}{number}"

    def text(self, row: int) -> tuple[str, str]:
        """Return the prompt and the completion of a row."""
        prompt, completion = (self.store.table.column(name)[row].as_py() for name in ("prompt", "completion"))
        return prompt, completion

    def splits(self) -> dict[str, np.ndarray]:
        """Return the row numbers of each split that was given, int64."""
        split = self.store.numbers("split")
        found = {name: np.flatnonzero(split == index) for index, name in enumerate(SPLITS)}
        return {name: rows for name, rows in found.items() if len(rows)}


@dataclass(frozen=True)
class _Plan:
    """A task whose rows are wanted."""

    task: Task
    parts: dict[str, list[Part]]

    @cached_property
    def stamps(self) -> list[tuple[str, str | None]]:
        return [(split, part.stamp) for split, parts in self.parts.items() for part in parts]

    @cached_property
    def origins(self) -> list[str]:
        return [part.prefix for parts in self.parts.values() for part in parts]

    @property
    def known(self) -> bool:
        """Whether the rows can be told without reading them."""
        return all(stamp is not None for _, stamp in self.stamps)

    @property
    def small(self) -> bool:
        sizes = [part.num_rows for parts in self.parts.values() for part in parts]
        return all(size is not None for size in sizes) and sum(filter(None, sizes)) <= MOST_ROWS_IN_MEMORY

    @cached_property
    def fingerprint(self) -> str:
        task = self.task
        rules = [task.prompt, task.completion, task.messages, task.chat, dict(task.where or {})]
        return _hash(json.dumps([_FORMAT, self.stamps, self.origins, rules], default=str).encode())

    @property
    def folder(self) -> Path:
        return _home() / self.fingerprint


def row_tables(tasks: Sequence[Task]) -> list[RowTable]:
    """Return the rows of each task; what is not kept from an earlier run is read.

    Tasks that are parts of the same files are read together, in one pass.

    Raises:
        FileNotFoundError: A path leads nowhere.
        ValueError: A row is not usable, or a split is empty; the message names file and line, or the item.
    """
    plans = [_plan(task) for task in tasks]
    groups: dict[Any, list[_Plan]] = {}
    for plan in plans:
        if plan.known and not plan.folder.is_dir():
            groups.setdefault(tuple(plan.stamps), []).append(plan)
    for group in groups.values():
        _keep(group)
    return [_table(plan) for plan in plans]


class Problem(NamedTuple):
    """What is wrong with a record: where it comes from, and the rest of the message."""

    origin: str
    message: str


def readable_rows(task: Task) -> tuple[RowTable, list[Problem]]:
    """Return the rows of a task that can be read, in memory, and what is wrong with the others.

    Use it to tell somebody all that is wrong at once; what trains uses `row_tables`, which stops at the first.

    Raises:
        FileNotFoundError: A path leads nowhere.
    """
    sink = pa.BufferOutputStream()
    problems: list[Problem] = []
    _read([_plan(task)], [sink], problems)
    return RowTable(ArrowStore(pa.ipc.open_stream(sink.getvalue()).read_all())), problems


def is_kept(task: Task) -> bool:
    """Whether the rows of a task are found again by the next run, without reading them. Nothing is consumed."""
    once = any(isinstance(getattr(task, split), Iterator) for split in SPLITS)
    return not once and _plan(task).known


def _plan(task: Task) -> _Plan:
    return _Plan(task, {split: parts_of(task, split) for split in SPLITS if getattr(task, split) is not None})


def _table(plan: _Plan) -> RowTable:
    if plan.known:
        return RowTable(ArrowStore(plan.folder), plan.fingerprint)
    if plan.small:
        sink = pa.BufferOutputStream()
        _read([plan], [sink])
        return RowTable(ArrowStore(pa.ipc.open_stream(sink.getvalue()).read_all()))
    return _spooled(plan)


def _spooled(plan: _Plan) -> RowTable:
    """Read what passes by only once, and name it by what it was."""
    with unfinished_folder(_home()) as unfinished:
        _read_to_folders([plan], [unfinished])
        with (unfinished / _ROWS).open("rb") as stream:
            fingerprint = hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
        finish(unfinished, _home() / fingerprint)
    return RowTable(ArrowStore(_home() / fingerprint), fingerprint)


def _keep(plans: list[_Plan]) -> None:
    with ExitStack() as stack:
        folders = [stack.enter_context(unfinished_folder(_home())) for plan in plans]
        _read_to_folders(plans, folders)
        for plan, folder in zip(plans, folders, strict=True):
            finish(folder, plan.folder)


def _read_to_folders(plans: list[_Plan], folders: list[Path]) -> None:
    with ExitStack() as sinks:
        _read(plans, [sinks.enter_context(pa.OSFile(str(folder / _ROWS), "wb")) for folder in folders])
    for folder in folders:
        write_numbers(folder)


def _home() -> Path:
    return cache_folder() / "rows"


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _read(plans: list[_Plan], sinks: Iterable[Any], problems: list[Problem] | None = None) -> None:
    """Read the records of the first plan, which are those of all, and write each plan's rows to its sink.

    Where problems are collected, they are not raised: the row, or what is left of an unreadable file, is left out.
    """
    with ExitStack() as stack:
        # The delay keeps what is read at once from printing anything.
        bar = stack.enter_context(tqdm(desc="Reading rows", unit=" rows", delay=2, leave=False))
        writers = [
            stack.enter_context(_Writer(plan, sink, bar, problems)) for plan, sink in zip(plans, sinks, strict=True)
        ]
        index = 0
        for split, parts in plans[0].parts.items():
            for part in parts:
                try:
                    for number, fields in part.records():
                        for writer in writers:
                            writer.add(split, index, number, fields)
                except ValueError as error:  # the file itself cannot be read on
                    _collect(problems, error, part.prefix)
                index += 1
            for writer in writers:
                writer.check_not_empty(split)


def _collect(problems: list[Problem] | None, error: ValueError, origin: str) -> None:
    """Add an error to the problems, told apart into its origin and what is wrong; raise it if none are collected."""
    if problems is None:
        raise error
    place, separator, message = str(error).partition(": ")
    told = bool(separator and origin) and place.startswith(origin)
    problems.append(Problem(place, message) if told else Problem(origin, str(error)))


class _Writer:
    """Write the rows of one task to an Arrow stream, some at a time."""

    def __init__(self, plan: _Plan, sink: Any, bar: tqdm, problems: list[Problem] | None) -> None:
        self.task = plan.task
        self.parts = plan.parts
        self.origins = plan.origins
        self.bar = bar
        self.problems = problems
        self.left_out: Any = None  # the last record that `where` left out
        schema = _SCHEMA.with_metadata({"origins": json.dumps(plan.origins)})
        self.stream = pa.ipc.new_stream(sink, schema)
        self.rows: list[tuple[Any, ...]] = []
        self.num_rows = dict.fromkeys(SPLITS, 0)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def add(self, split: str, part: int, number: int, fields: Any) -> None:
        if not matches(self.task.where, fields):
            self.left_out = fields
            return
        origin = f"{self.origins[part]}{number}"
        try:
            row = row_of(self.task, fields, origin)
        except ValueError as error:
            _collect(self.problems, error, origin)
            return
        self.rows.append((SPLITS.index(split), *row, part, number, digest(row)))
        self.num_rows[split] += 1
        if len(self.rows) == _ROWS_PER_BATCH:
            self.flush()

    def check_not_empty(self, split: str) -> None:
        self.flush()
        if not self.num_rows[split] and not self.problems:  # where no row is usable, that was said
            _collect(self.problems, ValueError(self._why_empty(split)), "")

    def _why_empty(self, split: str) -> str:
        files = [part.prefix.removesuffix(" row ").removesuffix(":") for part in self.parts[split] if part.stamp]
        where = self.task.where or {}
        missing = [column for column in where if self.left_out is not None and column not in self.left_out]
        wanted = " of which " + " and ".join(f"{name} is {value!r}" for name, value in where.items()) if where else ""
        read = f" ({', '.join(files)})" if files else ""
        told = f"The {split} split of task {self.task.name!r} is empty{read}. "
        if missing:
            return (
                f"{told}`Task.where` asks for the column {missing[0]!r}; the columns are "
                f"{', '.join(map(repr, self.left_out)) or 'none'}. Name one of them."
            )
        return f"{told}Give it rows{wanted}, or leave it out."

    def flush(self) -> None:
        if not self.rows:
            return
        *columns, digests = zip(*self.rows, strict=True)
        hashes = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=False)]
        arrays += [pa.array(hashes[:, 0]), pa.array(hashes[:, 1])]
        self.stream.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        self.bar.update(len(self.rows))
        self.rows = []
