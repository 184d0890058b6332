"""Logits at the completion tokens only, and the check that a model's own forward does nothing more."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from lightning_coba.modules import completion_logits
from lightning_coba.modules.completion_logits import CompletionLogits


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(completion_logits, "rank_zero_info", lines.append)
    return lines


@pytest.fixture
def batch(make_datamodule, batch_of):
    return batch_of(make_datamodule(), [(0, 1), (1, 2), (0, 17)])


def reference(model, batch):
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, -batch["input_ids"].shape[1] :].flatten(0, 1)[batch["token_index"]]


def gemma2(tiny_config):
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**tiny_config, head_dim=8, final_logit_softcapping=0.05)).eval()


def granite(tiny_config):
    torch.manual_seed(0)
    return GraniteForCausalLM(GraniteConfig(**tiny_config, logits_scaling=4.0)).eval()


def test_plain_model_runs_its_head_on_the_completion_tokens_alone(llama, batch, said, monkeypatch):
    model = llama()
    logits = CompletionLogits(model)
    with torch.no_grad():
        assert torch.allclose(logits(batch), reference(model, batch), atol=1e-5)
    assert logits.plain_head
    assert said == []
    rows = []
    model.lm_head.register_forward_hook(lambda m, args, out: rows.append(args[0].shape[:-1].numel()))
    with torch.no_grad():
        logits(batch)
    assert rows == [len(batch["token_index"])]


def test_adapter_is_part_of_the_backbone(llama, batch, said):
    model = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    logits = CompletionLogits(model.eval())
    with torch.no_grad():
        assert torch.allclose(logits(batch), reference(model, batch), atol=1e-4)
        with model.disable_adapter():
            assert not torch.allclose(logits(batch), reference(llama(), batch) + 1, atol=1e-4)
            assert torch.allclose(logits(batch), reference(llama(), batch), atol=1e-4)
    assert logits.plain_head


@pytest.mark.parametrize("make", [gemma2, granite])
def test_a_cap_or_a_scale_on_the_logits_is_noticed_and_kept(make, tiny_config, batch, said):
    model = make(tiny_config)
    logits = CompletionLogits(model)
    with torch.no_grad():
        assert torch.equal(logits(batch), reference(model, batch))
        hidden = model.get_decoder()(batch["input_ids"]).last_hidden_state
        plain = model.lm_head(hidden).flatten(0, 1)[batch["token_index"]]
    assert not torch.allclose(plain, reference(model, batch), rtol=0.01)  # else this test could not fail
    assert not logits.plain_head
    assert len(said) == 1
    assert type(model).__name__ in said[0]


def test_virtual_tokens_are_noticed_and_cut_off(llama, batch, said):
    model = get_peft_model(llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    logits = CompletionLogits(model)
    with torch.no_grad():
        assert torch.equal(logits(batch), reference(model, batch))
        assert not torch.allclose(logits(batch), reference(llama(), batch), atol=1e-3)
    assert not logits.plain_head
    assert len(said) == 1


def test_model_whose_parts_cannot_be_called_says_so(llama, batch, said, monkeypatch):
    model = llama()
    monkeypatch.setattr(type(model), "get_decoder", lambda self: (_ for _ in ()).throw(TypeError("no parts")))
    with torch.no_grad():
        assert torch.equal(CompletionLogits(model)(batch), reference(model, batch))
    assert "no parts" in said[0]


def test_check_restores_every_training_flag_and_the_random_state(llama, batch):
    model = llama().train()
    model.model.layers[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    CompletionLogits(model)(batch)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.model._forward_hooks
