"""The rows that are answered: prompts as in training, with the columns of their files that a metric may need."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_coba.data import MultitaskDataModule, Task
from lightning_coba.data.reading.sources import parts_of
from lightning_coba.data.reading.task import SPLITS
from lightning_coba.data.tokens.splits import fixed_subset

#: An answer may be so much longer than the longest one known.
ROOM, MARGIN = 1.5, 8


@dataclass(frozen=True)
class EvaluationRow:
    """One row to answer.

    Attributes:
        number: of the row in its split.
        prompt_ids: what the model reads, exactly as in training: start token, chat template, cut on the left.
        prompt: the same as text, whole and without roles.
        gold: the completion.
        fields: the other columns of the row's record; empty where they cannot be read a second time.
        origin: where it came from.
        messages: the conversation as JSON, with the completion as its last turn; None where the row is none.
    """

    number: int
    prompt_ids: tuple[int, ...]
    prompt: str
    gold: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    messages: str | None = None


def evaluation_rows(datamodule: MultitaskDataModule, split: str, task: int) -> list[EvaluationRow]:
    """Return the rows of a task that are shown of a split.

    Args:
        datamodule: which has read its data (``setup``).
        split: ``"train"``, ``"validation"`` or ``"test"``.
        task: its index.
    """
    corpus = datamodule.corpus
    tokens, texts = corpus.tokens[split][task], corpus.texts[task]
    numbers = corpus.shown[split][task].tolist()
    places = [
        tuple(texts.store.table.column(name)[int(tokens.rows[row])].as_py() for name in ("part", "number"))
        for row in numbers
    ]
    fields = _fields(datamodule.tasks[task], set(places))
    conversations = texts.store.table.column("messages")
    rows = []
    for row, place, (ids, learned) in zip(numbers, places, tokens.take(numbers), strict=True):
        begin = int(np.flatnonzero(~learned)[-1]) + 1  # of a conversation: the last answer
        prompt, gold = corpus.text(split, task, row)
        rows.append(
            EvaluationRow(
                row,
                tuple(ids[:begin].tolist()),
                prompt,
                gold,
                fields.get(place, {}),
                corpus.origin(split, task, row),
                conversations[int(tokens.rows[row])].as_py(),
            )
        )
    return rows


def fewer_rows(
    datamodule: MultitaskDataModule, split: str, task: int, rows: list[EvaluationRow], count: int
) -> list[EvaluationRow]:
    """Return a fixed part of the rows of a task: always the same, whatever the seed and the order of the rows."""
    corpus = datamodule.corpus
    ranks = corpus.texts[task].store.numbers("subset_rank")[corpus.tokens[split][task].rows]
    return [rows[place] for place in fixed_subset(ranks[[row.number for row in rows]], count)]


def known_completions(datamodule: MultitaskDataModule, task: int) -> list[str]:
    """Return completions of training rows, 500 at most: what kind of answers a task has, however few rows are asked."""
    corpus = datamodule.corpus
    return [corpus.text("train", task, row)[1] for row in range(min(500, len(corpus.tokens["train"][task])))]


def longest_answer(datamodule: MultitaskDataModule, task: int) -> int:
    """Return how many tokens an answer to a task may have: 1.5 times the longest completion of train and validation."""
    corpus = datamodule.corpus
    longest = max(int(corpus.tokens[split][task].completion_tokens.max()) for split in ("train", "validation"))
    return math.ceil(ROOM * longest) + MARGIN


def _fields(task: Task, places: set[tuple[int, int]]) -> dict[tuple[int, int], Mapping[str, Any]]:
    """Read the records at some (part, number) once more, for the columns that training has no use for."""
    return {
        (part, number): fields
        for part, records in _parts(task, {part for part, _ in places})
        for number, fields in records
        if (part, number) in places
    }


def _parts(task: Task, wanted: set[int]) -> Iterator[tuple[int, Any]]:
    number = 0
    for split in SPLITS:
        source = getattr(task, split)
        if source is None:
            continue
        once = isinstance(source, Iterator)  # read already, and gone
        for part in [] if once else parts_of(task, split):
            if number in wanted:
                yield number, part.records()
            number += 1
        number += once
