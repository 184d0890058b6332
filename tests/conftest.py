"""Fixtures that every test folder may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_lm import batch_of, llama, make_datamodule, make_trainer, talkative_llama, tiny_config  # noqa: F401
from tiny_runs import data_folder, finished_run, here, model_folder, overrides  # noqa: F401 - fixtures for all
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from written_runs import write_run_at_fixture, write_run_fixture  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep rows and tokens of tests out of the user's cache; the dequantised model, which takes long, stays there."""
    from lightning_coba.cache_folder import cache_folder

    folder = tmp_path_factory.mktemp("cache")
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(models)
    before = os.environ.get("LIGHTNING_COBA_CACHE")
    os.environ["LIGHTNING_COBA_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["LIGHTNING_COBA_CACHE"]
    else:
        os.environ["LIGHTNING_COBA_CACHE"] = before


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per byte and an end token (id 256), built without any download."""
    vocab = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab["<eos>"] = len(vocab)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep sums in one order and two cores free for everybody."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_global_seed() -> Iterator[None]:
    """Undo `seed_everything`: it leaves a variable behind that seeds the held-out draws of every later test."""
    os.environ.pop("PL_GLOBAL_SEED", None)
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of what is announced to the user during the test."""
    from lightning_coba.balancing import notices

    lines: list[str] = []
    monkeypatch.setattr(notices, "rank_zero_info", lines.append)
    return lines
