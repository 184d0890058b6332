"""Small tasks and a module that records what it is fed."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from recording import Recorder

from lightning_coba.data import MultitaskDataModule, Task


class Table:
    """Tokenised rows held in memory, with the reading interface of `TokenizedRows`."""

    def __init__(self, *rows: tuple[Any, Any]) -> None:
        self.rows = [(np.array(ids, dtype=np.int32), np.array(learned, dtype=bool)) for ids, learned in rows]
        self.lengths = np.array([len(ids) for ids, _ in self.rows], dtype=np.int32)
        self.completion_tokens = np.array([learned.sum() for _, learned in self.rows], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self.rows[index] for index in indices]


@pytest.fixture
def table() -> type[Table]:
    return Table


@pytest.fixture
def calls_of() -> Callable[[Callable[[], Any]], tuple[Any, int]]:
    """Return a caller that counts Python's function calls and returns: few, however many rows there are."""

    def count(function: Callable[[], Any]) -> tuple[Any, int]:
        events = 0

        def event(frame: Any, event: str, arg: Any) -> None:
            nonlocal events
            events += 1

        sys.setprofile(event)
        try:
            return function(), events
        finally:
            sys.setprofile(None)

    return count


SIZES = {"a": 23, "b": 11, "c": 5}


def rows(task: str, count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"prompt": f"{task} {i}:\n", "completion": "x" * (i % 4 + 1)} for i in range(start, start + count)]


@pytest.fixture
def make_datamodule(tokenizer: Any) -> Callable[..., MultitaskDataModule]:
    def make(**options: Any) -> MultitaskDataModule:
        tasks = [
            Task(name, rows(name, size), rows(name, 6, start=100), rows(name, 3, start=200))
            for name, size in SIZES.items()
        ]
        return MultitaskDataModule(**{"tasks": tasks, "tokenizer": tokenizer, "batch_size": 4, **options})

    return make


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder
