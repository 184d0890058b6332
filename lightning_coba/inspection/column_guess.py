"""Guess which columns are read and which are learned, from their names and a few rows."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_coba.data.reading.formats import Fields
from lightning_coba.data.reading.rows import has_columns, matches
from lightning_coba.data.reading.sources import parts_of
from lightning_coba.data.reading.task import Task

_ROWS_LOOKED_AT = 200
_WHERE_TYPED_COUNTS = (
    "it counts for the tasks that have these columns, and can be followed by the same for tasks with others."
)
_CONVERSATIONS = ("messages", "conversations", "conversation", "dialog", "chat", "turns")
#: (columns that are read, in their order; the column that is learned), the surest first.
_PAIRS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("prompt",), "completion"),
    (("prompt",), "response"),
    (("instruction", "input"), "output"),
    (("instruction", "context"), "response"),
    (("instruction",), "output"),
    (("instruction",), "response"),
    (("context", "question"), "answer"),
    (("passage", "question"), "answer"),
    (("question",), "answer"),
    (("question",), "response"),
    (("query",), "response"),
    (("query",), "answer"),
    (("problem",), "solution"),
    (("premise", "hypothesis"), "label"),
    (("sentence1", "sentence2"), "label"),
    (("document",), "summary"),
    (("article",), "highlights"),
    (("article",), "summary"),
    (("dialogue",), "summary"),
    (("text",), "summary"),
    (("text",), "label_text"),
    (("text",), "label"),
    (("sentence",), "label"),
    (("source",), "target"),
    (("src",), "tgt"),
    (("inputs",), "targets"),
    (("input",), "target"),
    (("input",), "output"),
)


@dataclass(frozen=True)
class Columns:
    """How the rows of a task are read.

    Attributes:
        rules: arguments of `Task`: ``prompt`` and ``completion``, or ``messages``; without those at their defaults.
        why: what was seen, for a comment.
    """

    rules: Mapping[str, Any]
    why: str


def guess_columns(task: Task) -> Columns:
    r"""Guess how the rows of a task are read.

    Args:
        task: whose train split is looked at; its own column rules are ignored.

    Raises:
        ValueError: It cannot be told; the message lists the columns and the options to type.

    Example:
        >>> rows = [{"question": "2 + 2?", "answer": "4"}]
        >>> guess_columns(Task("sums", rows)).rules
        {'prompt': '{question}\n', 'completion': 'answer'}
    """
    rows, origin = _first_rows(task)
    if not rows:
        raise ValueError(f"The train split of task {task.name!r} is empty ({origin}). Give it rows, or leave it out.")
    told_apart = task.where or {}
    common = [name for name in rows[0] if name not in told_apart and all(row.get(name) is not None for row in rows)]
    pair = next(((read, learned) for read, learned in _PAIRS if {*read, learned} <= set(common)), None)
    if pair is not None:
        return _of_pair(rows, *pair)
    for name in _CONVERSATIONS:
        if name in common and not isinstance(rows[0][name], int | float):
            rules = {} if name == "messages" else {"messages": name}
            return Columns(rules, f"column {name!r} holds conversations")
    raise ValueError(_unsure(task.name, origin, rows, common))


def _first_rows(task: Task) -> tuple[list[Fields], str]:
    parts = parts_of(task, "train")
    records = itertools.chain.from_iterable(part.records() for part in parts)
    mine = (fields for _, fields in records if matches(task.where, fields))
    return list(itertools.islice(mine, _ROWS_LOOKED_AT)), parts[0].prefix.rstrip(" :").removesuffix(" row")


def _of_pair(rows: Sequence[Fields], read: tuple[str, ...], learned: str) -> Columns:
    seen = f"columns {', '.join(map(repr, read))} and {learned!r}"
    if all(isinstance(row[name], list) for row in rows for name in (*read, learned)):
        return Columns(_but_defaults(read[0], learned), f"{seen} hold messages")
    completion = learned if all(isinstance(row[learned], str) for row in rows) else f"{{{learned}}}"
    if len(read) == 1 and all(isinstance(row[read[0]], str) for row in rows):
        ended = sum(row[read[0]][-1:].isspace() for row in rows)
        if ended >= 0.9 * len(rows):
            return Columns(_but_defaults(read[0], completion), seen)
        why = f"{seen}; the template ends the prompt with a line break"
        return Columns(_but_defaults(f"{{{read[0]}}}\n", completion), why)
    template = "".join(f"{{{name}}}\n" for name in read)
    return Columns(_but_defaults(template, completion), seen)


def _but_defaults(prompt: str, completion: str) -> dict[str, str]:
    rules = {"prompt": prompt, "completion": completion}
    return {name: rule for name, rule in rules.items() if rule != name}


def _unsure(task: str, origin: str, rows: Sequence[Fields], common: Sequence[str]) -> str:
    told = f"{origin}: which columns of task {task!r} are read, and which is learned? They are "
    told += f"{', '.join(map(repr, rows[0])) or 'none'}. "
    joined = next((mark for mark in ";\t|" if len(rows[0]) == 1 and mark in next(iter(rows[0]))), None)
    if joined:
        return f"{told}The fields seem to be parted by {joined!r}: save the file with commas, or with tabs as .tsv."
    nested = next((name for name in common if isinstance(rows[0][name], Mapping)), None)
    texts = [name for name in common if isinstance(rows[0][name], str | int | float)]
    if nested is not None and len(rows[0][nested]) >= 2:
        first, second = list(rows[0][nested])[:2]
        typed = as_typed({"prompt": f"{{{nested}[{first}]}}\n", "completion": f"{{{nested}[{second}]}}"})
        return f"{told}Type {typed}, or the reverse; {_WHERE_TYPED_COUNTS}"
    if len(texts) >= 2:
        typed = as_typed({"prompt": f"{{{texts[0]}}}\n", "completion": texts[1]})
        return f"{told}Type {typed}, or what is meant; {_WHERE_TYPED_COUNTS}"
    return told + (
        "Each row needs a text that is read and one that is learned, in columns of their own. To learn whole texts, "
        f"add a column 'prompt' that is empty, and type --completion {texts[0] if texts else 'text'}."
    )


def rules_of(tasks: Sequence[Task], given: Sequence[Mapping[str, Any]] = ()) -> dict[str, Columns]:
    """Return how each task is read: as was said, where it has these columns, else as its columns tell.

    Args:
        tasks: at least one.
        given: rules that were typed, each of ``prompt`` and ``completion``, or of ``messages``. They hold for the
            tasks that have their columns; where two say the same of a task, the first does.

    Raises:
        ValueError: It cannot be told, see `guess_columns`; or no task has the columns of a rule.
    """
    for typed in given:
        replace(tasks[0], **typed)  # refuses what is no template
    rows = {task.name: _first_rows(task)[0] for task in tasks} if given else {}
    found = {}
    for task in tasks:
        rules: dict[str, str] = {}
        for typed in given:
            if _fits(typed, rows[task.name]):
                rules = {**typed, **rules}
        found[task.name] = Columns(rules, "as typed") if rules else guess_columns(task)
    for typed in given:
        if not any(_fits(typed, some) for some in rows.values()):
            columns = "; ".join(f"{name}: {', '.join(map(repr, some[0]))}" for name, some in rows.items() if some)
            raise ValueError(f"No task has the columns of {as_typed(typed)}. They are {columns}. Name some of them.")
    return found


def _fits(rules: Mapping[str, str], rows: Sequence[Fields]) -> bool:
    return any(all(has_columns(rule, row) for rule in rules.values()) for row in rows)


def as_typed(rules: Mapping[str, str]) -> str:
    """Return rules as the options of a command."""
    return " ".join(f"--{name} {shlex.quote(rule.replace(chr(10), chr(92) + 'n'))}" for name, rule in rules.items())
