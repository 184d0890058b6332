import os

import pytest
import torch

from lightning_coba.callbacks import notices


@pytest.fixture(autouse=True)
def one_thread():
    """Keep sums in one order and two cores free for everybody."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_global_seed():
    """Undo `seed_everything`: it leaves a variable behind that seeds the held-out draws of every later test."""
    os.environ.pop("PL_GLOBAL_SEED", None)
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)


@pytest.fixture
def said(monkeypatch):
    """Return the list of what is announced to the user during the test."""
    lines = []
    monkeypatch.setattr(notices, "rank_zero_info", lines.append)
    return lines
