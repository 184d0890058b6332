"""Losses at the completion tokens alone, padded and packed, and the checks of what a model's own forward does."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from lightning_coba.models import completion_losses
from lightning_coba.models.completion_losses import CompletionLosses

#: (task, tokens, tokens of the prompt) of each row, and which rows lie end to end when packed.
LENGTHS = [(0, 9, 4), (1, 6, 3), (0, 7, 2), (1, 5, 1), (0, 4, 3)]
BINS = [[0, 1], [2, 3, 4]]
K = 3  # the last task is absent


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(completion_losses, "rank_zero_info", lines.append)
    return lines


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(4)
    return [(task, torch.randint(256, (n,), generator=generator), prompt) for task, n, prompt in LENGTHS]


def batch_of(bins, width):
    """Lay rows out, one bin a sequence; the rest of a sequence is padding, which is a row of its own."""
    ids, positions = torch.full((len(bins), width), 256), torch.zeros(len(bins), width, dtype=torch.int64)
    index, targets, tasks = [], [], []
    for i, rows in enumerate(bins):
        start = 0
        for task, tokens, prompt in rows:
            ids[i, start : start + len(tokens)] = tokens
            positions[i, start : start + len(tokens)] = torch.arange(len(tokens))
            index += range(i * width + start + prompt - 1, i * width + start + len(tokens) - 1)
            targets += tokens[prompt:].tolist()
            tasks += [task] * (len(tokens) - prompt)
            start += len(tokens)
        positions[i, start:] = torch.arange(width - start)
    listed = {"token_index": index, "targets": targets, "token_tasks": tasks}
    return {"input_ids": ids, "position_ids": positions} | {k: torch.tensor(v) for k, v in listed.items()}


@pytest.fixture
def padded(rows):
    batch = batch_of([[row] for row in rows], 9)
    del batch["position_ids"]
    lengths = torch.tensor([len(tokens) for _, tokens, _ in rows])
    return batch | {"attention_mask": (torch.arange(9) < lengths[:, None]).long()}


@pytest.fixture
def packed(rows):
    return batch_of([[rows[i] for i in bin_] for bin_ in BINS], 17)


def by_hand(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits = logits[:, -batch["input_ids"].shape[1] :].flatten(0, 1)[batch["token_index"]].float()
    losses = nn.functional.cross_entropy(logits, batch["targets"], reduction="none")
    return torch.stack([losses[batch["token_tasks"] == task].sum() for task in range(K)])


def gradients(sums, model):
    """One backward pass a task, over one graph."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        torch.autograd.grad(sums[task], parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for task in range(K)
    ]


def assert_same(ours, expected, model, atol=1e-6):
    torch.testing.assert_close(ours.sums, expected, rtol=1e-5, atol=1e-6)
    of_ours, others = gradients(ours.sums, model), gradients(expected, model)
    assert max(float(g.abs().max()) for g in others[0]) > 1e-3
    torch.testing.assert_close(of_ours, others, rtol=1e-4, atol=atol)


def lora(model, **options):
    model = get_peft_model(model, LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **options}))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def gemma2(config):
    return Gemma2ForCausalLM(Gemma2Config(**config, head_dim=8, final_logit_softcapping=0.05))


def granite(config):
    return GraniteForCausalLM(GraniteConfig(**config, logits_scaling=4.0))


def llama_of(implementation):
    return lambda config: LlamaForCausalLM(LlamaConfig(**config, attn_implementation=implementation))


def gpt2(config):
    ends = {"bos_token_id": 256, "eos_token_id": 256}
    return GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=32, **ends))


def bloom(config):
    return BloomForCausalLM(BloomConfig(vocab_size=257, hidden_size=32, n_layer=2, n_head=4))


def opt(config):
    return OPTForCausalLM(
        OPTConfig(vocab_size=257, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64,
                  word_embed_proj_dim=32)
    )  # fmt: skip


@pytest.fixture
def made(tiny_config):
    def make(maker):
        torch.manual_seed(0)
        return maker(tiny_config).eval()

    return make


# ------------------------------------------------------------------ the head


TRAINED, FROZEN = "checkpointed_task_losses", "chunked_task_losses"


@pytest.fixture
def routes(monkeypatch):
    """Which function ran the head, and on how many hidden states."""
    taken = []

    def watch(name, place):
        own = getattr(completion_losses, name)
        monkeypatch.setattr(completion_losses, name, lambda *args: taken.append((name, len(args[place]))) or own(*args))

    watch(FROZEN, 0)
    watch(TRAINED, 1)
    return taken


ADAPTERS = {
    "full": (lambda model: model, TRAINED),
    "lora": (lora, FROZEN),
    "lora on the head": (lambda model: lora(model, target_modules=["q_proj", "lm_head"]), TRAINED),
    "head saved whole": (lambda model: lora(model, modules_to_save=["lm_head"]), TRAINED),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_head_runs_on_completion_tokens_alone_by_the_route_that_fits(kind, llama, padded, said, routes):
    adapt, route = ADAPTERS[kind]
    model = adapt(llama())
    losses = CompletionLosses(model)
    assert_same(losses(padded, K), by_hand(model, padded), model)
    assert losses.plain_head
    assert said == []
    assert routes == [(route, len(padded["targets"]))]


def test_without_gradients_every_linear_head_takes_the_fast_route(llama, padded, routes):
    model = llama()
    with torch.no_grad():
        torch.testing.assert_close(CompletionLosses(model)(padded, K).sums, by_hand(model, padded))
    assert routes == [(FROZEN, len(padded["targets"]))]


def test_hook_on_the_head_is_kept(llama, padded):
    model = llama().requires_grad_(False)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 2)
    torch.testing.assert_close(CompletionLosses(model)(padded, K).sums, by_hand(model, padded))


def test_disabled_adapter_is_not_in_the_losses(llama, padded):
    model = lora(llama()).eval()
    losses = CompletionLosses(model)
    with torch.no_grad():
        adapted = losses(padded, K).sums
        with model.disable_adapter():
            torch.testing.assert_close(losses(padded, K).sums, by_hand(llama(), padded))
    assert not torch.allclose(adapted, by_hand(llama(), padded))


@pytest.mark.parametrize("make", [gemma2, granite])
def test_a_cap_or_a_scale_on_the_logits_is_noticed_and_kept(make, made, padded, said):
    model = made(make)
    losses = CompletionLosses(model)
    ours, expected = losses(padded, K), by_hand(model, padded)
    torch.testing.assert_close(ours.sums, expected, rtol=1e-6, atol=0)
    hidden = model.get_decoder()(padded["input_ids"]).last_hidden_state
    plain = model.lm_head(hidden).flatten(0, 1)[padded["token_index"]]
    without = nn.functional.cross_entropy(plain, padded["targets"], reduction="sum")
    assert abs(without - expected.sum()) > 1e-3  # else this test could not fail
    assert not losses.plain_head
    assert len(said) == 1
    assert type(model).__name__ in said[0]


def test_virtual_tokens_are_noticed_and_cut_off(llama, padded, said):
    model = get_peft_model(llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    losses = CompletionLosses(model)
    assert_same(losses(padded, K), by_hand(model, padded), model)
    assert not torch.allclose(losses(padded, K).sums, by_hand(llama(), padded), rtol=1e-4)
    assert not losses.plain_head
    assert len(said) == 1


def test_model_whose_parts_cannot_be_called_says_so(llama, padded, said, monkeypatch):
    model = llama()
    monkeypatch.setattr(type(model), "get_decoder", lambda self: (_ for _ in ()).throw(TypeError("no parts")))
    torch.testing.assert_close(CompletionLosses(model)(padded, K).sums, by_hand(model, padded), rtol=1e-6, atol=0)
    assert "no parts" in said[0]


def test_checks_restore_every_training_flag_and_the_random_state(llama, packed):
    model = llama().train()
    model.model.layers[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    CompletionLosses(model)(packed, K)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.model._forward_hooks


# ------------------------------------------------------------------ packed sequences


@pytest.mark.parametrize(
    "make", [llama_of("eager"), llama_of("sdpa"), gpt2, granite], ids=["eager", "sdpa", "gpt2", "own forward"]
)
def test_packed_rows_have_the_losses_and_gradients_of_padded_ones(make, made, padded, packed):
    model = made(make)
    losses = CompletionLosses(model)
    ours, expected = losses(packed, K), losses(padded, K)
    assert ours.counts.tolist() == expected.counts.tolist() == [11, 7, 0]
    assert_same(ours, expected.sums, model)
    del packed["position_ids"]
    packed["attention_mask"] = torch.ones_like(packed["input_ids"])
    assert not torch.allclose(losses(packed, K).sums, expected.sums, rtol=1e-4)  # what a leak would give


@pytest.mark.parametrize("make", [bloom, opt])
def test_model_that_mixes_packed_sequences_is_refused_with_the_setting(make, made, padded, packed):
    losses = CompletionLosses(made(make))
    losses(padded, K)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"mixes sequences.*data\.batching=grouped"):
            losses(packed, K)


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_virtual_tokens_are_not_for_packed_sequences(llama, packed, said):
    model = get_peft_model(llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    with pytest.raises(ValueError, match=r"sequences.*data\.batching=grouped"):
        CompletionLosses(model)(packed, K)


def test_packing_is_checked_once(llama, packed, monkeypatch):
    losses, checks = CompletionLosses(llama()), []
    own = completion_losses.packed_sequences
    monkeypatch.setattr(completion_losses, "packed_sequences", lambda *args: checks.append(args) or own(*args))
    for _ in range(3):
        losses(packed, K)
    assert len(checks) == 1


def test_flash_attention_gets_one_row(llama, packed):
    """transformers hands it sequence lengths only where there is one row; the flat positions stay as they are."""
    model = llama()
    losses = CompletionLosses(model)
    rows = losses._inputs(packed)
    assert rows["input_ids"].shape == packed["input_ids"].shape
    model.config._attn_implementation = "flash_attention_2"
    inputs = losses._inputs(packed)
    assert inputs["attention_mask"] is None
    assert inputs["input_ids"].tolist() == [packed["input_ids"].flatten().tolist()]
    assert inputs["position_ids"].tolist() == [packed["position_ids"].flatten().tolist()]
    model.config._attn_implementation = "sdpa"
    assert_same(losses(packed, K), losses_of_one_row(model, packed), model)


def losses_of_one_row(model, packed):
    row = packed | {key: packed[key].reshape(1, -1) for key in ("input_ids", "position_ids")}
    return CompletionLosses(model)(row, K).sums
