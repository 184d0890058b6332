"""Guess which columns are read and which are learned, from their names and a few rows."""

import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lightning_coba.data.reading.formats import Fields
from lightning_coba.data.reading.rows import has_columns, matches
from lightning_coba.data.reading.sources import parts_of
from lightning_coba.data.reading.task import Task
from lightning_coba.errors import UserError
from lightning_coba.inspection.findings import listed

_ROWS_LOOKED_AT = 200
_CONVERSATIONS = ("messages", "conversations", "conversation", "dialog", "chat", "turns")


@dataclass(frozen=True)
class Columns:
    """How the rows of a task are read.

    Attributes:
        rules: Arguments of `Task`: ``prompt`` and ``completion``, or ``messages``; without those at their defaults.
        why: What was seen, for a comment.
    """

    rules: Mapping[str, Any]
    why: str


def guess_columns(task: Task) -> Columns:
    r"""Guess how the rows of a task are read.

    Args:
        task: The task whose train split is looked at; its own column rules are ignored.

    Raises:
        ValueError: It cannot be told; the message lists the columns and the options to type.

    Example:
        >>> rows = [{"question": "2 + 2?", "answer": "4"}]
        >>> guess_columns(Task("sums", rows)).rules
        {'prompt': '{question}\n', 'completion': 'answer'}
    """
    rows, origin = _first_rows(task)
    if not rows:
        raise UserError(f"The train split of task {task.name!r} is empty ({origin}).", "Give it rows, or leave it out.")
    told_apart = task.where or {}
    common = [name for name in rows[0] if name not in told_apart and all(row.get(name) is not None for row in rows)]
    pairs = yaml.safe_load(Path(__file__).with_name("columns.yaml").read_text(encoding="utf-8"))
    for read, answers in pairs.items():
        for learned in answers.split():
            if {*read.split(), learned} <= set(common):
                return _of_pair(rows, read.split(), learned, told_apart)
    for name in _CONVERSATIONS:
        if name in common and not isinstance(rows[0][name], int | float):
            rules = {} if name == "messages" else {"messages": name}
            return Columns(rules, f"column {name!r} holds conversations{_left_out(rows, [name, *told_apart])}")
    raise _unsure(task.name, origin, rows, common)


def _first_rows(task: Task) -> tuple[list[Fields], str]:
    parts = parts_of(task, "train")
    records = itertools.chain.from_iterable(part.records() for part in parts)
    mine = (fields for _, fields in records if matches(task.where, fields))
    return list(itertools.islice(mine, _ROWS_LOOKED_AT)), parts[0].prefix.rstrip(" :").removesuffix(" row")


def _left_out(rows: Sequence[Fields], used: Iterable[str]) -> str:
    """Return which columns are not read, to be said after those that are."""
    others = dict.fromkeys(name for row in rows for name in row if name not in used)
    return f"; not read: {listed(map(repr, others), 6)}" if others else ""


def _of_pair(rows: Sequence[Fields], read: Sequence[str], learned: str, told_apart: Iterable[str]) -> Columns:
    def all_are(kind: type, *names: str) -> bool:
        return all(isinstance(row[name], kind) for row in rows for name in names)

    why = f"columns {', '.join(map(repr, read))} and {learned!r}"
    prompt = "".join(f"{{{name}}}\n" for name in read)
    completion = learned if all_are(str, learned) else f"{{{learned}}}"
    if all_are(list, *read, learned):
        prompt, completion, why = read[0], learned, f"{why} hold messages"
    elif len(read) == 1 and all_are(str, *read):
        if sum(row[read[0]][-1:].isspace() for row in rows) >= 0.9 * len(rows):
            prompt = read[0]
        else:
            why += "; the template ends the prompt with a line break"
    if empty := [name for name in read if len(read) > 1 and any(row[name] == "" for row in rows)]:
        why += f"; where {' or '.join(map(repr, empty))} is empty, the prompt has an empty line"
    why += _left_out(rows, [*read, learned, *told_apart])
    rules = {"prompt": prompt, "completion": completion}
    return Columns({name: rule for name, rule in rules.items() if rule != name}, why)


def _unsure(task: str, origin: str, rows: Sequence[Fields], common: Sequence[str]) -> UserError:
    first = rows[0]
    there = ", ".join(map(repr, first)) or "none"
    told = f"which columns of task {task!r} are read, and which is learned? They are {there}."
    joined = next((mark for mark in ";\t|" if len(first) == 1 and mark in next(iter(first))), None)
    if joined:
        cure = f"The fields seem to be parted by {joined!r}: save the file with commas, or with tabs as .tsv."
        return UserError(told, cure, where=origin)
    texts = [name for name in common if isinstance(first[name], str | int | float)]
    nested = next((name for name in common if isinstance(first[name], Mapping) and len(first[name]) >= 2), None)
    rules = {}
    if nested is not None:
        read, learned = list(first[nested])[:2]
        rules = {"prompt": f"{{{nested}[{read}]}}\n", "completion": f"{{{nested}[{learned}]}}"}
    elif len(texts) >= 2:
        rules = {"prompt": f"{{{texts[0]}}}\n", "completion": texts[1]}
    if rules:
        cure = (
            f"Type {as_typed(rules)}, or what is meant; it counts for the tasks that have these columns, and can be "
            "followed by the same for tasks with others."
        )
    else:
        cure = (
            "Each row needs a text that is read and one that is learned, in columns of their own. To learn whole "
            f"texts, add a column 'prompt' that is empty, and type --columns prompt {texts[0] if texts else 'text'}."
        )
    return UserError(told, cure, where=origin)


def rules_of(tasks: Sequence[Task], given: Sequence[Mapping[str, str]] = ()) -> dict[str, Columns]:
    """Return how each task is read: as was typed, where it has these columns, else as its columns tell.

    Args:
        tasks: At least one.
        given: Rules that were typed, each of ``prompt`` and ``completion``, or of ``messages``. They hold for the
            tasks that have their columns; where two fit a task, the first does.

    Raises:
        ValueError: It cannot be told, see `guess_columns`; or no task has the columns of a rule.
    """
    for typed in given:
        replace(tasks[0], **typed)  # type: ignore[arg-type]  # refuses what is no template
    rows = {task.name: _first_rows(task)[0] for task in tasks} if given else {}
    for typed in given:
        if not any(_fits(typed, some) for some in rows.values()):
            columns = "; ".join(f"{name}: {', '.join(map(repr, some[0]))}" for name, some in rows.items() if some)
            raise UserError(f"No task has the columns of {as_typed(typed)}.", f"They are {columns}. Name some of them.")
    found = {}
    for task in tasks:
        rules = next((typed for typed in given if _fits(typed, rows[task.name])), None)
        found[task.name] = Columns(rules, "as typed") if rules else guess_columns(task)
    return found


def _fits(rules: Mapping[str, str], rows: Sequence[Fields]) -> bool:
    return any(all(has_columns(rule, row) for rule in rules.values()) for row in rows)


def as_typed(rules: Mapping[str, str]) -> str:
    """Return rules as the options of a command."""
    option = "messages" if "messages" in rules else "columns"
    return shlex.join([f"--{option}", *(rule.replace("\n", "\\n") for rule in rules.values())])
