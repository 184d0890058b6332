"""A tiny model, tasks in folders, and runs of `coba-train` on them in this process, for every folder of tests."""

import json
from contextlib import contextmanager

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

TASKS = ("cubes", "squares")


def write_rows(file, task, count, start):
    power = 3 if task == "cubes" else 2
    rows = [
        {"prompt": f"{task} {i} =", "completion": f"{i**power}" + "!" * (i % 5)} for i in range(start, start + count)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_tasks(root, tasks=TASKS):
    for number, task in enumerate(tasks):
        for split, count, start in (("train", 20 - 9 * number, 0), ("validation", 5, 300), ("test", 4, 400)):
            write_rows(root / task / f"{split}.jsonl", task, count, start)
    return root


@pytest.fixture(scope="session")
def model_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("data") / "powers")


@pytest.fixture(scope="session")
def overrides(model_folder, data_folder):
    """What makes a run small: 31 rows, 8 batches and 4 optimizer steps an epoch, a pass every 2 of them."""
    return [
        "data=files",
        f"data.root={data_folder}",
        "data.batch_size=4",
        "data.max_length=32",
        "model=causal_lm",
        f"model.model={model_folder}",
        "peft.r=4",
        "peft.lora_dropout=0.1",
        "trainer.max_epochs=3",
        "trainer.val_check_interval=4",
        "trainer.accumulate_grad_batches=2",
        "trainer.log_every_n_steps=1",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "balancer.window_records=3",
        "balancer.warmup_records=1",
        "balancer.significance=null",  # twelve steps show little more than noise
        "optimizer.lr=3e-3",
        "scheduler.num_warmup_steps=2",
        "logger=csv",  # the default imports tensorboard and draws images
    ]


@contextmanager
def training_here():
    """Give a function that runs `coba-train` in this process, with one thread; exceptions come out as they are."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import flag_override

    from lightning_coba.cli.config_folder import config_folder
    from lightning_coba.cli.train import train

    def run(folder, *arguments, only_compose=False):
        patch.setenv("PL_GLOBAL_SEED", "1")  # so that it is taken back: Lightning sets it
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_folder(), version_base="1.3"):
            config = compose("train", [*arguments], return_hydra_config=True)
        config.hydra.runtime.output_dir = str(folder)
        config.hydra.job.num = 0
        HydraConfig.instance().set_config(config)
        with flag_override(config, ["struct", "readonly"], False):
            del config["hydra"]
        return config if only_compose else train(config)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        yield run
    torch.set_num_threads(threads)
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.fixture
def here():
    """Run `coba-train` in this process, as a function of a folder and overrides."""
    with training_here() as run:
        yield run


@pytest.fixture(scope="session")
def finished_run(overrides, tmp_path_factory):
    """Give the folder of a run with an adapter that is over; tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with training_here() as run:
        run(folder, *overrides)
    return folder
