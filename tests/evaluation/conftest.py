"""A tiny random model, rows of every kind on disk, and runs that `coba-train` left."""

import json

import pytest

from lightning_coba.data import MultitaskDataModule


@pytest.fixture
def llama(talkative_llama):
    return talkative_llama


def task_rows(task, count, start):
    """Questions with answers, and labels: the two kinds that need other columns and few words."""
    numbers = range(start, start + count)
    if task == "capitals":
        return [
            {"prompt": f"capital {i}?\n", "completion": f"city {i}", "answers": [f"city {i}", str(i)]} for i in numbers
        ]
    return [{"prompt": f"odd {i}?\n", "completion": "yes" if i % 2 else "no", "label": str(i % 2)} for i in numbers]


@pytest.fixture
def data_folder(tmp_path):
    root = tmp_path / "suite"
    for task in ("capitals", "odd"):
        for split, count, start in (("train", 12, 0), ("validation", 6, 100), ("test", 6, 200)):
            file = root / task / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(row) + "\n" for row in task_rows(task, count, start)), encoding="utf-8")
    return root


@pytest.fixture
def datamodule(data_folder, tokenizer):
    made = MultitaskDataModule(root=data_folder, tokenizer=tokenizer, batch_size=4, max_length=64)
    made.setup("fit")
    return made
