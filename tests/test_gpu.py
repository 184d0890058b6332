"""What only a CUDA device can show; run with `make test` where there is one."""

import lightning as L
import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

from lightning_coba import ConvergenceBalancer, MultitaskLM, replay
from lightning_coba.balancers import CoBa, Observation
from lightning_coba.functional import chunked_task_losses
from lightning_coba.models import completion_losses
from lightning_coba.models.completion_losses import CompletionLosses
from lightning_coba.models.liger import FIRST_VERSION, liger_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("form", ["paper", "mftcoder"])
def test_update_waits_for_no_device_and_equals_the_cpu(form):
    balancer = CoBa(window_records=8, warmup_records=3, form=form)
    losses = torch.rand(40, 5, dtype=torch.float64) + 0.5
    state = balancer.init(5, device="cuda")
    present = torch.ones(5, dtype=torch.bool, device="cuda")
    rows = losses.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        weights = []
        for t in range(len(rows)):
            state, w = balancer.update(state, Observation(step=t, present=present, losses=rows[t]))
            weights.append(w)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(torch.stack(weights).cpu(), replay(balancer, losses), atol=1e-10, rtol=0)


class TwoHeads(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in ("a", "b")})

    def losses(self, batch):
        return {task: (head(batch[0]) - batch[1]).square().mean() for task, head in self.heads.items()}

    def training_step(self, batch, batch_idx):
        return self.task_weights.combine(self.losses(batch))

    def validation_step(self, batch, batch_idx):
        for task, loss in self.losses(batch).items():
            self.log(f"val_loss/{task}", loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_drop_in_keeps_its_state_on_the_module_s_device():
    data = TensorDataset(torch.randn(32, 4), torch.randn(32, 1))
    balancer = ConvergenceBalancer()
    trainer = L.Trainer(
        max_epochs=6,
        accelerator="gpu",
        devices=1,
        callbacks=[balancer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    module = TwoHeads()
    trainer.fit(module, DataLoader(data, 8), DataLoader(data, 8))
    assert balancer.history["weight"].shape == (6, 2)
    assert balancer.state_dict()["recorder"]["state"]["ratios"].is_cuda


# ------------------------------------------------------------------ the language model


def tiny_llama(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=257, bos_token_id=256, eos_token_id=256, **sizes, **options)).cuda()


@pytest.fixture
def padded():
    """Two rows of one length, a task each; completions are the last six tokens."""
    ids = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(1)).cuda()
    index = torch.cat([row * 16 + torch.arange(9, 15) for row in (0, 1)]).cuda()
    tasks = torch.arange(2, device="cuda").repeat_interleave(6)
    targets = ids.flatten()[index + 1]
    listed = {"token_index": index, "targets": targets, "token_tasks": tasks}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **listed}


@pytest.fixture
def packed(padded):
    """The same rows end to end: the flat positions are the same."""
    rest = {name: value for name, value in padded.items() if name != "attention_mask"}
    positions = torch.arange(16, device="cuda").repeat(2)[None]
    return {**rest, "input_ids": padded["input_ids"].reshape(1, -1), "position_ids": positions}


def gradients_per_task(sums, model):
    wanted = [p for p in model.parameters() if p.requires_grad]
    return [torch.autograd.grad(s, wanted, retain_graph=True, allow_unused=True, materialize_grads=True) for s in sums]


def test_liger_kernel_gives_a_trained_head_the_checkpointed_losses_and_gradients(padded, monkeypatch):
    pytest.importorskip("liger_kernel")
    if liger_loss() is None:
        pytest.skip(f"needs liger-kernel {FIRST_VERSION}")
    model, calls = tiny_llama(), []
    fused = CompletionLosses(model)
    monkeypatch.setattr(completion_losses, "liger_loss", lambda: calls.append(1) or liger_loss())
    ours = fused(padded, 2).sums
    assert calls
    monkeypatch.setattr(completion_losses, "liger_loss", lambda: None)
    plain = fused(padded, 2).sums
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=0)
    torch.testing.assert_close(gradients_per_task(ours, model), gradients_per_task(plain, model), rtol=1e-2, atol=1e-4)


def test_frozen_head_waits_for_no_device():
    hidden = torch.randn(40, 8, device="cuda", requires_grad=True)
    weight, targets = torch.randn(257, 8, device="cuda"), torch.arange(40, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        chunked_task_losses(hidden, weight, None, targets, targets % 3, 3, 16).sums.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert hidden.grad.isfinite().all()


def test_flash_attention_keeps_packed_rows_apart(padded, packed):
    pytest.importorskip("flash_attn")
    model = tiny_llama(attn_implementation="flash_attention_2").to(torch.bfloat16)
    losses = CompletionLosses(model)
    ours, expected = losses(packed, 2).sums, losses(padded, 2).sums
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=0)


def test_4_bit_base_learns(padded, tokenizer, tmp_path):
    pytest.importorskip("bitsandbytes")
    tiny_llama().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    peft = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4)
    module = MultitaskLM(str(tmp_path), peft=peft, load_in_4bit=True, dtype="bfloat16", tasks=["a", "b"]).cuda()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = module.task_losses(padded).sums.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.96 * losses[0]


def test_compiled_backbone_has_the_same_losses(padded):
    model = tiny_llama().requires_grad_(False)
    with torch.no_grad():
        ours, expected = (CompletionLosses(model, compile=compiled)(padded, 2).sums for compiled in (True, False))
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=0)
