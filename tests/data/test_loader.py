import pytest
import torch

from lightning_coba.data.loader import PlannedLoader
from lightning_coba.data.sources import Row
from lightning_coba.data.tokenization import tokenize

LENGTH = 10


@pytest.fixture
def make_loader(tokenizer):
    tokens = [tokenize([Row("p", "c", "a:1")] * LENGTH, tokenizer, max_length=8)]

    def order(epoch):
        generator = torch.Generator().manual_seed(epoch)
        return torch.stack([torch.zeros(LENGTH, dtype=torch.int64), torch.randperm(LENGTH, generator=generator)], 1)

    return lambda **options: PlannedLoader(order, LENGTH, tokens, tokenizer.eos_token_id, 3, **options)


def read(loader):
    return [batch["row_ids"].tolist() for batch in loader]


def test_an_epoch_covers_its_rows(make_loader):
    loader = make_loader()
    assert list(map(len, read(loader))) == [3, 3, 3, 1]
    assert len(loader) == 4
    assert sorted(row for batch in read(loader) for row in batch) == list(range(LENGTH))


def test_starting_late_runs_on_into_the_next_epoch(make_loader):
    first, second = (read(make_loader(position=lambda epoch=epoch: (epoch, 0))) for epoch in (0, 1))
    assert first != second
    assert read(make_loader(position=lambda: (0, 3))) == first[3:] + second[:3]


def test_position_is_asked_at_the_first_batch_and_not_before(make_loader):
    now = [(0, 0)]
    iterator = iter(make_loader(position=lambda: now[0]))
    now[0] = (1, 2)
    assert next(iterator)["row_ids"].tolist() == read(make_loader(position=lambda: (1, 0)))[2]


def test_ranks_see_equally_many_batches_and_every_token_counts_once(make_loader):
    ranks = [list(make_loader(rank=rank, world_size=4)) for rank in range(4)]
    assert [len(batches) for batches in ranks] == [1] * 4
    ranks = [list(make_loader(rank=rank, world_size=2)) for rank in range(2)]
    assert [len(batches) for batches in ranks] == [2, 2]
    counted = [
        row for batches in ranks for batch in batches if len(batch["targets"]) for row in batch["row_ids"].tolist()
    ]
    assert sorted(counted) == list(range(LENGTH))


def test_rank_without_rows_gets_an_uncounted_batch(make_loader):
    last = [list(make_loader(rank=rank, world_size=3))[-1] for rank in range(3)]
    assert [len(batch["targets"]) for batch in last] == [2, 0, 0]
    assert last[0]["row_ids"].equal(last[2]["row_ids"])


def test_it_holds_no_state(make_loader):
    loader = make_loader()
    next(iter(loader))
    assert loader.state_dict() == {}
