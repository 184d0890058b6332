import numpy as np
import pytest

from lightning_coba.data.planning.collate import collate


@pytest.fixture
def tasks(table):
    return [
        table(([5, 6, 7, 2], [0, 0, 1, 1]), ([9, 2], [0, 1])),
        table(([8, 3, 4, 7, 2], [0, 0, 0, 1, 1]), ([2, 2, 2], [0, 1, 1])),
    ]


def test_batch_computed_by_hand(tasks):
    batch = collate([(1, 0), (0, 1), (0, 0)], tasks, pad_token_id=2)
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
    assert {str(value.dtype) for value in batch.values()} == {"torch.int64"}


def test_packed_batch_computed_by_hand(tasks):
    batch = collate(np.array([(1, 0), (0, 1), (0, 0)]), tasks, pad_token_id=0, sequences=np.array([0, 2, 3]))
    expected = {
        "input_ids": [[8, 3, 4, 7, 2, 9, 2], [5, 6, 7, 2, 0, 0, 0]],
        "position_ids": [[0, 1, 2, 3, 4, 0, 1], [0, 1, 2, 3, 0, 1, 2]],
        "token_index": [2, 3, 5, 8, 9],
        "targets": [7, 2, 2, 7, 2],
        "token_tasks": [1, 1, 0, 0, 0],
        "row_tasks": [1, 0, 0],
        "row_ids": [0, 1, 0],
    }
    assert {key: value.tolist() for key, value in batch.items()} == expected


def test_learned_tokens_may_lie_anywhere_but_at_the_start(table):
    chat = [table(([4, 5, 6, 7, 8], [0, 1, 0, 1, 1]))]
    batch = collate([(0, 0)], chat, pad_token_id=0)
    assert (batch["token_index"].tolist(), batch["targets"].tolist()) == ([0, 2, 3], [5, 7, 8])


def test_pad_that_equals_the_end_token_masks_nothing_real(tasks):
    batch = collate([(1, 1), (1, 0)], tasks, pad_token_id=2)
    assert batch["targets"].tolist() == [2, 2, 7, 2]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]


@pytest.mark.parametrize("sequences", [None, np.array([0, 1])])
def test_uncounted_batch_has_rows_but_no_targets(tasks, sequences):
    batch = collate([(0, 0)], tasks, pad_token_id=0, counted=False, sequences=sequences)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2]]
    assert [len(batch[key]) for key in ("token_index", "targets", "token_tasks")] == [0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_packed_and_padded_batches_hold_the_same(table, seed):
    generator = np.random.default_rng(seed)

    def row(length):
        learned = generator.random(length) < 0.5
        learned[0] = False
        return generator.integers(1, 90, length), learned

    tasks = [table(*(row(generator.integers(1, 12)) for _ in range(9))) for _ in range(3)]
    pairs = np.stack([generator.integers(0, 3, 14), generator.integers(0, 9, 14)], axis=1)
    cuts = np.sort(generator.choice(np.arange(1, 14), 4, replace=False))
    padded = collate(pairs, tasks, pad_token_id=0)
    packed = collate(pairs, tasks, pad_token_id=0, sequences=np.array([0, *cuts, 14]))
    assert packed["targets"].equal(padded["targets"])
    assert packed["token_tasks"].equal(padded["token_tasks"])
    for batch in (padded, packed):
        flat = batch["input_ids"].flatten()
        assert flat[batch["token_index"] + 1].equal(batch["targets"])
        assert flat.count_nonzero() == sum(len(tasks[task].take([row])[0][0]) for task, row in pairs)
    # The token before and its position are the same: only what lies around a row differs.
    assert (
        packed["input_ids"].flatten()[packed["token_index"]].equal(padded["input_ids"].flatten()[padded["token_index"]])
    )
    positions = padded["token_index"] % padded["input_ids"].shape[1]
    assert packed["position_ids"].flatten()[packed["token_index"]].equal(positions)
