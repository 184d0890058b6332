"""Small tasks and a module that records what it is fed."""

from collections.abc import Callable
from typing import Any

import lightning
import pytest
import torch

from lightning_coba.data import MultitaskDataModule, Task

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


class Recorder(lightning.LightningModule):
    """Keep the (task, row) pairs of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[list[tuple[int, int]]] = []
        self.validated: list[list[tuple[int, int]]] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.trained.append(pairs(batch))
        return 0.0 * self.weight

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.validated.append(pairs(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def pairs(batch: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    return list(zip(batch["row_tasks"].tolist(), batch["row_ids"].tolist(), strict=True))


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder
