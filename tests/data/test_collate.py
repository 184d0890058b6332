import pytest
import torch

from lightning_coba.data.collate import collate
from lightning_coba.data.sources import Row
from lightning_coba.data.tokenization import TokenizedRows, tokenize


def table(*rows):
    """Tokenised rows from (ids, prompt length) pairs."""
    ids, prompt_lengths = zip(*rows, strict=True)
    return TokenizedRows(
        ids=torch.tensor([i for row in ids for i in row], dtype=torch.int32),
        offsets=torch.tensor([0, *torch.tensor([len(row) for row in ids]).cumsum(0).tolist()]),
        prompt_lengths=torch.tensor(prompt_lengths),
        kept=torch.arange(len(ids)),
    )


TASKS = [table(([5, 6, 7, 2], 2), ([9, 2], 1)), table(([8, 3, 4, 7, 2], 3), ([2, 2, 2], 1))]


def test_batch_computed_by_hand():
    batch = collate([(1, 0), (0, 1), (0, 0)], TASKS, pad_token_id=2)
    expected = {
        "input_ids": [[8, 3, 4, 7, 2], [9, 2, 2, 2, 2], [5, 6, 7, 2, 2]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]],
        "token_index": [2, 3, 5, 11, 12],
        "targets": [7, 2, 2, 7, 2],
        "token_tasks": [1, 1, 0, 0, 0],
        "row_tasks": [1, 0, 0],
        "row_ids": [0, 1, 0],
    }
    assert {key: value.tolist() for key, value in batch.items()} == expected
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_pad_that_equals_the_end_token_masks_nothing_real():
    batch = collate(torch.tensor([[1, 1], [1, 0]]), TASKS, pad_token_id=2)
    assert batch["targets"].tolist() == [2, 2, 7, 2]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]


def test_uncounted_batch_has_rows_but_no_targets():
    batch = collate([(0, 0)], TASKS, pad_token_id=0, counted=False)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2]]
    assert [len(batch[key]) for key in ("token_index", "targets", "token_tasks")] == [0, 0, 0]


@pytest.mark.parametrize("prompt", ["", "Translate:\n"])
def test_each_target_is_the_token_after_its_index(tokenizer, prompt):
    rows = tokenize([Row(prompt, "yes", "a:1"), Row(prompt * 2, "no", "a:2")], tokenizer, max_length=64)
    batch = collate([(0, 0), (0, 1)], [rows], pad_token_id=tokenizer.eos_token_id)
    flat = batch["input_ids"].flatten()
    assert flat[batch["token_index"] + 1].equal(batch["targets"])
    assert len(batch["targets"]) == rows.completion_tokens.sum()
