"""Accuracy and exact match on the test split: what greedy decoding would write, without generating it."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GraniteConfig, GraniteForCausalLM

from lightning_coba import MultitaskLM
from lightning_coba.data.planning.collate import collate
from lightning_coba.models.completion_losses import CompletionLosses

TASKS = ("squares", "cubes")
SIZES = ((TASKS[0], 18), (TASKS[1], 7))
LEARNED = [(0, 0), (0, 1), (0, 2), (1, 1)]
END = 256


@pytest.fixture(scope="module")
def memory():
    """Weights that know some test rows by heart, kept between tests."""
    return {}


@pytest.fixture
def module(llama, tokenizer, make_datamodule, memory):
    module = MultitaskLM(llama(), tokenizer, tasks=TASKS)
    if not memory:
        datamodule = make_datamodule()
        datamodule.setup("test")
        batch = collate(LEARNED, datamodule.corpus.tokens["test"], END)
        optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
        for _ in range(80):
            optimizer.zero_grad()
            module.task_losses(batch).sums.sum().backward()
            optimizer.step()
        memory |= copy.deepcopy(module.model.state_dict())
    module.model.load_state_dict(memory)
    return module


def greedily_right(model, ids, learned):
    """Whether ``generate`` writes the completion of a row, and how many of its tokens are right after the true ones."""
    ids, learned = torch.tensor(ids, dtype=torch.int64), torch.tensor(learned)
    prompt, completion = ids[None, ~learned], ids[learned]
    written = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=len(completion), do_sample=False
    )[0, prompt.shape[1] :]
    forced = model(ids[None]).logits[0, -len(completion) - 1 : -1].argmax(dim=1)
    assert completion[-1] == END
    return written.tolist() == completion.tolist(), int((forced == completion).sum()), len(completion)


def test_exact_match_is_the_share_of_rows_that_greedy_decoding_reproduces(module, make_datamodule, make_trainer):
    datamodule = make_datamodule()
    [results] = make_trainer().test(module, datamodule=datamodule, verbose=False)
    model, expected = module.model.eval(), {}
    for name, rows in zip(TASKS, datamodule.corpus.tokens["test"], strict=True):
        with torch.no_grad():
            rights = [greedily_right(model, ids, learned) for ids, learned in rows.take(range(len(rows)))]
        exact, tokens, all_tokens = (sum(column) for column in zip(*rights, strict=True))
        assert 0 < exact < len(rights)  # else this test could not fail
        assert exact * all_tokens != tokens * len(rights)
        expected[f"test_exact_match/{name}"] = exact / len(rights)
        expected[f"test_token_accuracy/{name}"] = tokens / all_tokens
    for key in ("test_exact_match", "test_token_accuracy"):
        expected[key] = sum(expected[f"{key}/{name}"] for name in TASKS) / 2
    assert {key: results[key] for key in expected} == pytest.approx(expected)
    losses = {"test_loss", "test_loss_token", *(f"test_loss/{name}" for name in TASKS)}
    assert results.keys() == losses | expected.keys()


@pytest.mark.parametrize("options", [{"eval_batch_size": 1}, {"eval_batch_size": 2}, {"eval_batch_size": 8}])
def test_no_number_depends_on_the_size_of_a_batch(module, make_datamodule, make_trainer, options):
    [three] = make_trainer().test(module, datamodule=make_datamodule(eval_batch_size=3), verbose=False)
    [other] = make_trainer().test(module, datamodule=make_datamodule(**options), verbose=False)
    assert other == pytest.approx(three, rel=1e-5)
    shares = [key for key in three if "loss" not in key]
    assert {key: other[key] for key in shares} == {key: three[key] for key in shares}


def test_two_ranks_measure_what_one_process_measures(module, make_datamodule, make_trainer):
    """5 rows in batches of 1: in the last of two ranks one has no row of its own."""
    datamodule = partial(make_datamodule, eval_batch_size=1)
    pairs = [(0, 0), (0, 3), (1, 1), (1, 3), (0, 1)]

    def results(devices):
        data = datamodule()
        data.setup("test")
        loader = data.test_dataloader
        data.test_dataloader = partial(_of_pairs, loader, pairs)
        strategy = "ddp_spawn" if devices == 2 else "auto"
        [results] = make_trainer(devices=devices, strategy=strategy).test(module, datamodule=data, verbose=False)
        return results

    alone, both = results(1), results(2)
    assert alone["test_exact_match/squares"] == pytest.approx(2 / 3)
    assert both == pytest.approx(alone, rel=1e-6)


def _of_pairs(loader, pairs):
    loader = loader()
    loader.pairs = np.array(pairs)
    return loader


def test_a_task_without_rows_is_in_no_mean(module, make_datamodule, make_trainer):
    data = make_datamodule()
    data.setup("test")
    data.test_dataloader = partial(_of_pairs, data.test_dataloader, [(1, 0), (1, 1), (1, 2)])
    [results] = make_trainer().test(module, datamodule=data, verbose=False)
    for key in ("test_loss", "test_token_accuracy", "test_exact_match"):
        assert 0 < results[key] == results[f"{key}/cubes"]


class Operations(TorchDispatchMode):
    """Notes the names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_validation_looks_for_no_right_tokens(module, make_datamodule, batch_of):
    batch = batch_of(make_datamodule(), LEARNED)
    module.task_losses(batch)  # what happens once
    seen = {}
    for step, start in (("validation_step", "on_validation_epoch_start"), ("test_step", "on_test_epoch_start")):
        getattr(module, start)()
        with torch.no_grad(), Operations() as operations:
            getattr(module, step)(batch, 0)
        seen[step] = operations.names
    assert "argmax" not in seen["validation_step"]
    assert seen["test_step"].count("argmax") == 1
    assert seen["test_step"].count("mm") == seen["validation_step"].count("mm")  # the head runs once


# ------------------------------------------------------------------ routes to the logits

PAIRS = [(0, 1), (1, 2), (0, 17), (1, 5), (1, 0)]


def lora(**options):
    return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 4, **options})


def hooked(model):
    model.lm_head.register_forward_hook(lambda module, inputs, output: output.roll(1, dims=-1))
    return model


ROUTES = {
    "full": lambda model: model,
    "lora": lambda model: get_peft_model(model, lora()),
    "lora on the head": lambda model: get_peft_model(model, lora(target_modules=["lm_head"])),
    "head saved whole": lambda model: get_peft_model(model, lora(modules_to_save=["lm_head"])),
    "ia3": lambda model: get_peft_model(
        model, IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    ),
    "hook on the head": hooked,
    "full logits": lambda model: get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
}


def half_right(model, batch):
    """Make the model right on the last two rows and on every other token of the first, by choosing the targets."""
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    width = batch["input_ids"].shape[1]
    logits = logits[:, -width:].flatten(0, 1)[batch["token_index"]].float()
    rows = batch["token_index"] // width
    right = (rows >= 3) | ((rows == 0) & (torch.arange(len(rows)) % 2 == 0))
    best = logits.argmax(dim=1)
    targets = torch.where(right, best, (best + 1) % 257)
    expected = [
        [[int((right & mine).sum()), int(mine.sum())] for mine in (batch["token_tasks"] == k for k in range(2))],
        [[0, 2], [2, 3]],
        [float(nn.functional.cross_entropy(logits, targets, reduction="none")[batch["token_tasks"] == k].sum())
         for k in range(2)],
    ]  # fmt: skip
    return targets, expected


def listed(losses):
    return [list(pair) for pair in zip(losses.sums.tolist(), losses.counts.tolist(), strict=True)]


def check(metrics, expected):
    accuracy, exact_match, losses = expected
    assert listed(metrics.accuracy) == accuracy
    assert listed(metrics.exact_match) == exact_match
    assert metrics.losses.sums.tolist() == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_to_the_logits_measures_alike(route, llama, make_datamodule, batch_of):
    torch.manual_seed(2)
    model = ROUTES[route](llama()).eval()
    batch = batch_of(make_datamodule(), PAIRS)
    batch["targets"], expected = half_right(model, batch)
    losses = CompletionLosses(model)
    check(losses.metrics(batch, 2), expected)
    assert losses.plain_head == (route != "full logits")
    with torch.no_grad():
        torch.testing.assert_close(losses.metrics(batch, 2).losses, losses(batch, 2))


@pytest.mark.parametrize("scaled", [False, True])
def test_packed_rows_are_told_apart(scaled, llama, tiny_config, make_datamodule, batch_of):
    torch.manual_seed(2)
    model = GraniteForCausalLM(GraniteConfig(**tiny_config, logits_scaling=8.0)).eval() if scaled else llama()
    datamodule = make_datamodule()
    padded = batch_of(datamodule, PAIRS)
    padded["targets"], expected = half_right(model, padded)
    for sequences in ([0, 2, 5], [0, 5], [0, 1, 2, 3, 4, 5]):
        packed = collate(PAIRS, datamodule.corpus.tokens["train"], END, sequences=np.array(sequences))
        packed["targets"] = padded["targets"]
        check(CompletionLosses(model).metrics(packed, 2), expected)


def test_autocast_measures_the_logits_that_the_losses_are_of(module, make_datamodule, batch_of):
    batch = batch_of(make_datamodule(), PAIRS)
    losses = CompletionLosses(module.model.eval())
    exact = losses.metrics(batch, 2).losses.sums
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        metrics, expected = losses.metrics(batch, 2), losses(batch, 2)
    torch.testing.assert_close(metrics.losses, expected, rtol=1e-5, atol=0)
    assert not torch.allclose(metrics.losses.sums, exact, rtol=1e-5)


def test_uncounted_batch_measures_nothing(module, make_datamodule, batch_of):
    metrics = CompletionLosses(module.model).metrics(batch_of(make_datamodule(), PAIRS, counted=False), 2)
    assert [listed(measure) for measure in metrics] == [[[0, 0]] * 2] * 3
