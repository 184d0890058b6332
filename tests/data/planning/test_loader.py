from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_coba.data.planning.loader import EvaluationLoader, PlannedLoader
from lightning_coba.data.planning.mixing import Mixing
from lightning_coba.data.planning.planner import Planner

LENGTHS = ([3, 9, 4, 4, 7, 12, 5, 6, 11, 8], [20, 31, 25, 18, 22], [2, 3, 2])
NUM_ROWS = 18


@pytest.fixture
def tasks(table):
    # A row of n tokens ends with n // 2 completion tokens.
    return [table(*((range(1, n + 1), [i >= n - n // 2 for i in range(n)]) for n in task)) for task in LENGTHS]


class Trainer:
    """What loaders ask of a Trainer that fits, with a place (done, batch, number of batches) where it stands."""

    def __init__(self, rank=0, world_size=1, accumulate=1, place=None):
        self.distributed_sampler_kwargs = {"rank": rank, "num_replicas": world_size} if world_size > 1 else None
        self.accumulate_grad_batches = accumulate
        self.training = place is not None
        if place is not None:
            self.stand(*place)

    def stand(self, done, batch, num_batches):
        self.num_training_batches = num_batches
        progress = SimpleNamespace(total=SimpleNamespace(completed=done), current=SimpleNamespace(completed=batch))
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))


@pytest.fixture
def make_loader(tasks):
    def make(step_size=4, plan=None, num_steps=None, **trainer):
        planner = Planner([task.lengths for task in tasks], Mixing(), "all", step_size, **(plan or {}))
        return PlannedLoader(planner, tasks, 0, num_steps, Trainer(**trainer) if trainer else None)

    return make


def pairs(batch):
    return list(zip(batch["row_tasks"].tolist(), batch["row_ids"].tolist(), strict=True))


def counts(batches):
    tasks = torch.cat([batch["token_tasks"] for batch in batches])
    return tasks.bincount(minlength=3).tolist()


EVERY_ROW = [(task, row) for task, lengths in enumerate(LENGTHS) for row in range(len(lengths))]


def test_an_epoch_covers_its_rows(make_loader):
    loader = make_loader()
    batches = list(loader)
    assert [len(batch["row_ids"]) for batch in batches] == [4, 4, 4, 4, 2]
    assert len(loader) == 5
    assert sorted(pair for batch in batches for pair in pairs(batch)) == EVERY_ROW


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("batching", ["grouped", "packed"])
def test_steps_hold_the_same_however_they_are_cut(make_loader, accumulate, world_size, batching):
    plan = {"batching": batching, "sequence_tokens": 32 if batching == "packed" else None}
    whole = list(make_loader(plan=plan))
    ranks = [
        list(make_loader(plan=plan, accumulate=accumulate, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert {len(batches) for batches in ranks} == {len(whole) * accumulate}
    for number, step in enumerate(whole):
        window = [batch for batches in ranks for batch in batches[number * accumulate : (number + 1) * accumulate]]
        counted = [pair for batch in window if len(batch["targets"]) for pair in pairs(batch)]
        assert sorted(counted) == sorted(pairs(step))
        assert all(batch["step_counts"].tolist() == counts([step]) for batch in window)
        assert counts(window) == counts([step])


def test_rank_without_rows_reads_a_stand_in_that_does_not_count(make_loader):
    last = [list(make_loader(rank=rank, world_size=4))[-1] for rank in range(4)]  # two rows for four ranks
    assert sorted(len(batch["row_ids"]) for batch in last) == [1, 1, 1, 1]
    assert sum(len(batch["targets"]) > 0 for batch in last) == 2
    assert all(batch["step_counts"].tolist() == counts(last) for batch in last)


def test_place_is_asked_at_the_first_batch_and_not_before(make_loader):
    whole = [pairs(batch) for batch in make_loader()]
    loader = make_loader(place=(0, 0, 5))
    iterator = iter(loader)
    loader.trainer.stand(2, 2, 5)
    assert [pairs(batch) for batch in iterator] == whole[2:]


def test_epochs_of_lightning_are_cut_from_the_endless_stream(make_loader):
    loader = make_loader(num_steps=3)
    assert len(loader) == 3
    found = [pairs(batch) for epoch in range(4) for batch in make_loader(place=(3 * epoch, 0, 3))]
    stream = [pairs(batch) for start in (0, 5, 10) for batch in make_loader(place=(start, 0, 5))]
    assert found == stream[:12]
    assert Counter(pair for batch in stream[:5] for pair in batch) == Counter(EVERY_ROW)
    assert stream[:5] != stream[5:10]


def test_short_last_window_counts_what_it_holds(make_loader):
    # Lightning's limit_train_batches=5 with an accumulation of 2: windows of 2, 2 and 1 micro-batches.
    batches = list(make_loader(accumulate=2, place=(0, 0, 5)))
    windows = [batches[0:2], batches[2:4], batches[4:5]]
    for window in windows:
        assert all(batch["step_counts"].tolist() == counts(window) for batch in window)
    # The next epoch goes on with the rest of that step, and its windows are its own.
    after = list(make_loader(accumulate=2, place=(5, 0, 5)))
    assert pairs(after[0]) == pairs(list(make_loader(accumulate=2))[5])
    assert after[0]["step_counts"].tolist() == counts(after[:2])


def test_resumed_within_a_window_it_counts_the_whole_window(make_loader):
    whole = list(make_loader(accumulate=4))
    rest = list(make_loader(accumulate=4, place=(6, 6, len(whole))))
    for found, wanted in zip(rest, whole[6:], strict=True):
        assert pairs(found) == pairs(wanted)
        assert found["step_counts"].equal(wanted["step_counts"])


def test_packed_batches_have_positions_and_no_mask(make_loader):
    for batch in make_loader(step_size=2, plan={"batching": "packed", "sequence_tokens": 40}):
        assert "attention_mask" not in batch
        assert batch["position_ids"].shape == batch["input_ids"].shape
        assert batch["input_ids"].shape[1] <= 40


def test_it_holds_no_state(make_loader):
    loader = make_loader()
    next(iter(loader))
    assert loader.state_dict() == {}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_shows_every_row_once_over_all_ranks(tasks, world_size):
    ranks = [
        list(EvaluationLoader(np.array(EVERY_ROW), tasks, 0, 4, Trainer(rank, world_size)))
        for rank in range(world_size)
    ]
    assert {len(batches) for batches in ranks} == {-(-NUM_ROWS // (4 * world_size))}
    shown = [pair for batches in ranks for batch in batches if len(batch["targets"]) for pair in pairs(batch)]
    assert sorted(shown) == EVERY_ROW
    assert "step_counts" not in ranks[0][0]
