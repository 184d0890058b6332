"""Merged weights give the outputs that model and adapter gave together, whatever the adapter sits on."""

import warnings

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lightning_coba.export import merge_adapter

LINEAR = ["q_proj", "v_proj", "down_proj"]
ADAPTERS = {
    "lora": LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    "dora": LoraConfig(task_type="CAUSAL_LM", target_modules=LINEAR, use_dora=True),
    "rslora": LoraConfig(task_type="CAUSAL_LM", target_modules=LINEAR, use_rslora=True),
    "ia3": IA3Config(task_type="CAUSAL_LM", target_modules=LINEAR, feedforward_modules=["down_proj"]),
    "lora on embeddings": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "embed_tokens"]),
    "lora on the head": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"]),
    "lora on both": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "embed_tokens", "lm_head"]),
    "head saved": LoraConfig(task_type="CAUSAL_LM", target_modules=LINEAR, modules_to_save=["lm_head"]),
    "embeddings saved": LoraConfig(task_type="CAUSAL_LM", target_modules=LINEAR, modules_to_save=["embed_tokens"]),
    "both saved": LoraConfig(task_type="CAUSAL_LM", target_modules=LINEAR, modules_to_save=["embed_tokens", "lm_head"]),
}
UNTIED = {"lora on embeddings", "lora on the head", "lora on both", "head saved", "embeddings saved", "both saved"}


def adapted(config, tied):
    """A random Llama with an adapter whose every value is random: a fresh one would change nothing."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft warns wherever weights are shared; what we make of that is tested here.
        warnings.filterwarnings("ignore", ".*tie_word_embeddings.*")
        torch.manual_seed(0)
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, tie_word_embeddings=tied, eos_token_id=60, bos_token_id=60,
            )
        )  # fmt: skip
        model = get_peft_model(llama, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(torch.arange(60)[None]).logits


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_merged_model_is_the_adapted_one_also_when_it_is_loaded_again(name, tied, tmp_path):
    model = adapted(ADAPTERS[name], tied)
    expected = logits(model)
    with model.disable_adapter():
        assert not torch.allclose(logits(model), expected, atol=1e-2)  # the adapter does something
    merged = merge_adapter(model)
    assert not isinstance(merged, PeftModel)
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    for each in (merged, loaded):
        torch.testing.assert_close(logits(each), expected, atol=1e-4, rtol=0)
    assert loaded.config.tie_word_embeddings is (tied and name not in UNTIED)


def test_weights_that_were_changed_alike_stay_shared(tmp_path):
    model = adapted(ADAPTERS["both saved"], tied=True)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    head.modules_to_save["default"].weight.data.copy_(embeddings.modules_to_save["default"].weight)
    expected = logits(model)
    merged = merge_adapter(model)
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.tie_word_embeddings
    torch.testing.assert_close(logits(loaded), expected, atol=1e-4, rtol=0)


def test_prompts_cannot_be_merged():
    model = adapted(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), tied=True)
    with pytest.raises(ValueError, match=r"`merge_adapter\.model` must .*; got PROMPT_TUNING\. .*leave out --merge"):
        merge_adapter(model)
