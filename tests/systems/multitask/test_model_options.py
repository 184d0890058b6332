"""Options of the language model: recomputed activations, weights in 4 bits, a compiled backbone."""

import sys
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from peft import LoraConfig
from torch.utils.data import DataLoader

from lightning_coba import MultitaskLM
from lightning_coba.callbacks import LastCheckpoint
from lightning_coba.models import language_model, load_language_model

TASKS = ["squares", "cubes"]


def lora(**options):
    return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 4, **options})


@pytest.fixture
def make_module(llama, tokenizer):
    def make(**options):
        optimizer = partial(torch.optim.AdamW, lr=1e-2)
        return MultitaskLM(
            **{"model": llama(), "tokenizer": tokenizer, "optimizer": optimizer, "tasks": TASKS, **options}
        )

    return make


@pytest.fixture
def folder(llama, tokenizer, tmp_path):
    llama().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def batches():
    """Batches of two rows, one a task, of different lengths; completions are the last five tokens."""
    made = []
    for seed, width in enumerate((9, 12, 10, 15)):
        ids = torch.randint(256, (2, width), generator=torch.Generator().manual_seed(seed))
        index = torch.cat([row * width + torch.arange(width - 6, width - 1) for row in (0, 1)])
        made.append({
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_index": index,
            "targets": ids.flatten()[index + 1],
            "token_tasks": torch.arange(2).repeat_interleave(5),
        })  # fmt: skip
    return made


def gradients(module, batch, seed=7):
    torch.manual_seed(seed)
    module.zero_grad()
    module.task_losses(batch).sums.sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same(one, other, **tolerance):
    torch.testing.assert_close(one, other, **{"rtol": 0, "atol": 0, **tolerance})


# ------------------------------------------------------------------ gradient checkpointing


@pytest.mark.parametrize("peft", [None, lora(lora_dropout=0.5, init_lora_weights=False)], ids=["full", "lora"])
def test_recomputed_activations_give_the_same_gradients_also_with_dropout(make_module, batches, peft):
    plain, recomputed = make_module(peft=peft), make_module(peft=peft, gradient_checkpointing=True)
    forwards = []
    layer = next(module for name, module in recomputed.named_modules() if name.endswith("layers.0.mlp"))
    layer.register_forward_pre_hook(lambda *_: forwards.append(1))
    expected = gradients(plain, batches[0])
    recomputed.task_losses(batches[0])  # the check of the head comes first
    forwards.clear()
    assert_same(gradients(recomputed, batches[0]), expected)
    assert len(forwards) == 2
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3
    if peft is not None:
        different = gradients(recomputed, batches[0], seed=8)
        assert any(not torch.equal(different[name], expected[name]) for name in expected)


def test_frozen_embeddings_get_no_gradient_for_the_recomputation(make_module, batches):
    """Reentrant checkpointing would need one."""
    module = make_module(peft=lora(), gradient_checkpointing=True)
    embedded = []
    module.model.get_input_embeddings().register_forward_hook(lambda m, args, out: embedded.append(out.requires_grad))
    gradients(module, batches[0])
    assert not any(embedded)


# ------------------------------------------------------------------ 4 bits


@pytest.fixture
def four_bit_model(folder):
    pytest.importorskip("bitsandbytes")
    return folder


def four_bits(make_module, folder, **options):
    return make_module(**{"model": folder, "tokenizer": None, "peft": lora(), "load_in_4bit": True, **options})


def test_weights_are_in_4_bits_and_nothing_else_is_cast(make_module, four_bit_model):
    import bitsandbytes

    module = four_bits(make_module, four_bit_model, dtype="bfloat16")
    packed = [m for m in module.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(packed) == 2 * 7
    assert {m.weight.quant_type for m in packed} == {"nf4"}
    assert all(m.weight.quant_state.nested for m in packed)
    base = module.model.get_base_model()
    assert base.lm_head.weight.dtype == base.model.embed_tokens.weight.dtype == torch.bfloat16
    assert base.model.norm.weight.dtype == torch.bfloat16
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora" in name for name in trainable)


def test_losses_in_4_bits_are_near_those_of_the_weights_that_were_packed(make_module, four_bit_model, batches):
    exact, packed = make_module(), four_bits(make_module, four_bit_model)
    for batch in batches:
        ours, expected = packed.task_losses(batch).sums, exact.task_losses(batch).sums
        torch.testing.assert_close(ours, expected, rtol=0.02, atol=0)
        assert not torch.equal(ours, expected)


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


def test_4_bit_base_trains_and_a_resumed_run_is_the_uninterrupted_one(
    make_module, make_trainer, four_bit_model, batches, tmp_path
):
    loader = DataLoader(batches, batch_size=None)

    def train(max_epochs, checkpoint=None):
        losses = Losses()
        trainer = make_trainer(
            max_epochs=max_epochs,
            limit_val_batches=1,
            enable_checkpointing=True,
            callbacks=[losses, LastCheckpoint(tmp_path / "last.ckpt")],
        )
        module = four_bits(make_module, four_bit_model, gradient_checkpointing=True, peft=lora(lora_dropout=0.1))
        trainer.fit(module, loader, loader, ckpt_path=checkpoint)
        return module, losses.values

    whole, losses = train(8)
    assert sum(losses[-4:]) < 0.96 * sum(losses[:4])  # a small frozen head limits it to about 0.9
    (tmp_path / "last.ckpt").unlink()
    train(4)
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert held.keys() == {name for name, p in whole.named_parameters() if p.requires_grad}
    resumed, after = train(8, tmp_path / "last.ckpt")
    assert after == losses[16:]
    assert_same(dict(resumed.named_parameters()), dict(whole.named_parameters()))


def test_4_bits_need_an_adapter_and_a_model_that_is_loaded_here(make_module, folder):
    for options in ({"model": folder, "tokenizer": None}, {"peft": lora()}):
        with pytest.raises(ValueError, match=r"`MultitaskLM.load_in_4bit` must come with `peft` and the name"):
            make_module(**options, load_in_4bit=True)


def test_missing_bitsandbytes_is_named_with_what_to_type(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(language_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install -c constraints\.txt 'lightning-coba\[4bit\]'"):
        load_language_model(folder, load_in_4bit=True)


# ------------------------------------------------------------------ compile


@pytest.fixture
def eager_compile(monkeypatch):
    """Trace for real, and leave out the generation of code, which takes a minute."""
    calls = []

    def compile_eagerly(module, **options):
        calls.append((module, options))
        return own(module, backend="eager", **options)

    own = torch.compile
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    yield calls
    torch._dynamo.reset()


def test_backbone_alone_is_compiled_once_for_all_lengths_and_checkpoints_stay(make_module, batches, eager_compile):
    plain, compiled = make_module(peft=lora()), make_module(peft=lora(), compile=True)
    assert eager_compile == []
    for batch in batches:
        assert_same(gradients(compiled, batch), gradients(plain, batch), rtol=1e-4, atol=1e-6)
    [(module, options)] = eager_compile
    assert module is compiled.model.get_base_model().model
    assert options == {"dynamic": True}
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in compiled.named_modules()] == [name for name, _ in plain.named_modules()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own, as its inductor starts
def test_generated_code_has_the_same_losses_and_gradients(make_module, batches):
    plain, compiled = make_module(peft=lora()), make_module(peft=lora(), compile=True)
    for batch in batches[:2]:
        assert_same(gradients(compiled, batch), gradients(plain, batch), rtol=1e-3, atol=1e-5)
