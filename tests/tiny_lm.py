"""A random two-layer model, two small tasks, and a quiet Trainer."""

import lightning as L
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_coba.data import MultitaskDataModule, Task


@pytest.fixture
def tiny_config():
    return {
        "vocab_size": 257,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 256,
        "eos_token_id": 256,
        "pad_token_id": 256,
    }


@pytest.fixture
def llama(tiny_config):
    """Return a maker of one and the same random Llama."""

    def make(seed=0, **changes):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlamaForCausalLM(LlamaConfig(**tiny_config | changes)).eval()

    return make


def _rows(task, count, start):
    power = 3 if task == "cubes" else 2
    return [
        {"prompt": f"{task} {i} =", "completion": f"{i**power}" + "!" * (i % 5)} for i in range(start, start + count)
    ]


@pytest.fixture
def make_datamodule(tokenizer):
    def make(sizes=(("squares", 18), ("cubes", 7)), **options):
        tasks = [Task(name, _rows(name, n, 0), _rows(name, 5, 300), _rows(name, 4, 400)) for name, n in sizes]
        return MultitaskDataModule(
            **{"tasks": tasks, "tokenizer": tokenizer, "batch_size": 4, "max_length": 32, **options}
        )

    return make


@pytest.fixture
def make_trainer(tmp_path):
    def make(**options):
        return L.Trainer(
            **{
                "accelerator": "cpu",
                "devices": 1,
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "enable_checkpointing": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "default_root_dir": tmp_path,
                **options,
            }
        )

    return make


@pytest.fixture
def batch_of():
    """Return a function: datamodule, (task, row) pairs -> batch of training rows."""

    def make(datamodule, pairs, counted=True):
        from lightning_coba.data.planning.collate import collate

        datamodule.setup("fit")
        return collate(pairs, datamodule.corpus.tokens["train"], 256, counted)

    return make


@pytest.fixture
def talkative_llama(llama):
    """Return a maker of a random Llama with weights so large that different prompts get different answers."""
    return lambda seed=0, **changes: llama(seed, **{"initializer_range": 0.5} | changes)
