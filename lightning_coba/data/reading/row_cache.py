"""The rows of each task as an Arrow table: read once, kept on disk, recognised while their files are the same."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from lightning_coba.cache_folder import only_maker
from lightning_coba.data.reading.arrow_store import ArrowStore, NewStore, fingerprint, kept, new_store
from lightning_coba.data.reading.formats import Fields, Records
from lightning_coba.data.reading.rows import digest, matches, row_of
from lightning_coba.data.reading.sources import Part, parts_of
from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.errors import UserError

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


@dataclass(eq=False)
class RowTable:
    """All rows of a task as text, with where they came from.

    Attributes:
        store: a table with the columns of ``_SCHEMA``.
    """

    store: ArrowStore

    @property
    def fingerprint(self) -> str:
        """A name for the rows: others have another one."""
        return self.store.folder.name

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


def row_tables(tasks: Sequence[Task]) -> list[RowTable]:
    """Return the rows of each task; what is not kept from an earlier run is read.

    Tasks that are parts of the same files are read together, in one pass.

    Raises:
        FileNotFoundError: A path leads nowhere.
        ValueError: A row is not usable, or a split is empty; the message names file and line, or the item.
    """
    plans = [_Plan(task) for task in tasks]
    stores: dict[_Plan, ArrowStore] = {}
    groups: dict[Any, list[_Plan]] = {}
    for plan in plans:
        if plan.key and (store := kept("rows", plan.key)) is not None:
            stores[plan] = store
        else:
            groups.setdefault(fingerprint(plan.stamps) if plan.key else plan, []).append(plan)
    for group in groups.values():
        stores |= _made_once(group)
    return [RowTable(stores[plan]) for plan in plans]


def readable_rows(task: Task) -> tuple[RowTable, list[UserError]]:
    """Return the rows of a task that can be read, and what is wrong with the others.

    Use it to tell somebody all that is wrong at once; what trains uses `row_tables`, which stops at the first.

    Raises:
        FileNotFoundError: A path leads nowhere.
    """
    plan = _Plan(task)
    plan.key = None  # some rows are left out
    problems: list[UserError] = []
    (store,) = _read([plan], problems.append)
    # Where no row of a split is usable, that it is empty need not be said.
    return RowTable(store), [problem for problem in problems if problem.where] or problems


class _Plan:
    """What is to be read of a task, and the key it is kept under: None where that is told by reading alone."""

    def __init__(self, task: Task) -> None:
        self.task = task
        given = [split for split in SPLITS if getattr(task, split) is not None]
        self.parts = [(split, part) for split in given for part in parts_of(task, split)]
        self.origins = [part.prefix for _, part in self.parts]
        self.stamps = [(split, part.stamp) for split, part in self.parts]
        rules = (task.prompt, task.completion, task.messages, task.chat, dict(task.where or {}))
        known = all(stamp is not None for _, stamp in self.stamps)
        self.key = fingerprint(self.stamps, self.origins, rules) if known else None


def _made_once(plans: list[_Plan]) -> dict[_Plan, ArrowStore]:
    """Read what no other run has read, or is reading now."""
    with ExitStack() as stack:
        # In one order, so that two runs never wait for each other.
        for plan in sorted((plan for plan in plans if plan.key), key=lambda plan: str(plan.key)):
            stack.enter_context(only_maker("rows", str(plan.key), f"the rows of task {plan.task.name!r}"))
        found = {plan: store for plan in plans if plan.key and (store := kept("rows", plan.key)) is not None}
        missing = [plan for plan in plans if plan not in found]
        return found | dict(zip(missing, _read(missing), strict=True)) if missing else found


def _raise(error: UserError) -> None:
    raise error from None


def _read(plans: list[_Plan], report: Callable[[UserError], None] = _raise) -> list[ArrowStore]:
    """Read the records of the first plan, which are those of all, and write the rows of each plan.

    Where an error is reported and not raised, the row, or what is left of an unreadable file, is left out.
    """
    with ExitStack() as stack:
        # The delay keeps what is read at once from printing anything.
        bar = stack.enter_context(tqdm(desc="Reading rows", unit=" rows", delay=2, leave=False))
        writers = []
        for plan in plans:
            schema = _SCHEMA.with_metadata({"origins": json.dumps(plan.origins)})
            new = stack.enter_context(new_store("rows", schema, plan.key))
            writers.append(_Writer(plan, new, report))
        for index, (split, part) in enumerate(plans[0].parts):
            for number, fields in _records(part, report):
                for writer in writers:
                    writer.add(split, index, number, fields)
                bar.update()
        for writer in writers:
            writer.end()
    return [writer.new.store for writer in writers]


def _records(part: Part, report: Callable[[UserError], None]) -> Records:
    try:
        yield from part.records()
    except UserError as error:  # the file itself cannot be read on
        report(error)


class _Writer:
    """Write the rows of one task to its store, some at a time."""

    def __init__(self, plan: _Plan, new: NewStore, report: Callable[[UserError], None]) -> None:
        self.plan, self.task = plan, plan.task
        self.new = new
        self.report = report
        self.left_out: Fields | None = None  # the last record that `where` left out
        self.rows: list[tuple[Any, ...]] = []
        self.empty = dict.fromkeys(split for split, _ in plan.parts)  # the splits that have no row so far

    def add(self, split: str, part: int, number: int, fields: Fields) -> None:
        if not matches(self.task.where, fields):
            self.left_out = fields
            return
        try:
            row = row_of(self.task, fields)
        except UserError as error:
            self.report(UserError(error.what, error.cure, where=f"{self.plan.origins[part]}{number}"))
            return
        self.rows.append((SPLITS.index(split), *row, part, number, *digest(row)))
        self.empty.pop(split, None)
        if len(self.rows) == _ROWS_PER_BATCH:
            self._flush()

    def end(self) -> None:
        self._flush()
        for split in self.empty:
            self.report(self._why_empty(split))

    def _why_empty(self, split: str) -> UserError:
        parts = [part for own, part in self.plan.parts if own == split and part.stamp]
        files = [part.prefix.removesuffix(" row ").removesuffix(":") for part in parts]
        where = self.task.where or {}
        missing = [column for column in where if self.left_out is not None and column not in self.left_out]
        wanted = " of which " + " and ".join(f"{name} is {value!r}" for name, value in where.items()) if where else ""
        read = f" ({', '.join(files)})" if files else ""
        told = f"The {split} split of task {self.task.name!r} is empty{read}."
        if missing:
            there = ", ".join(map(repr, self.left_out or ())) or "none"
            return UserError(
                f"{told} `Task.where` asks for the column {missing[0]!r}; the columns are {there}.", "Name one of them."
            )
        return UserError(told, f"Give it rows{wanted}, or leave it out.")

    def _flush(self) -> None:
        if self.rows:
            columns = zip(*self.rows, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
            self.new.write(pa.record_batch(arrays, schema=_SCHEMA))
            self.rows = []
