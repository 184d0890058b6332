"""Balancers that work on training steps, with the language model: what they see, whatever cuts the step into pieces."""

import math
from functools import partial

import pytest
import torch
from peft import LoraConfig

from lightning_coba import ConvergenceBalancer, MultitaskLM, TaskBalancing
from lightning_coba.balancers import FAMO, MGDA, GradNorm, Uniform
from lightning_coba.balancing import notices
from lightning_coba.balancing.held_out import HeldOutStream
from lightning_coba.balancing.shared_parameters import shared_parameters

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*it expects at least", "ignore:.*records? (is|are) to come"
)
LORA = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.0, init_lora_weights=False)


@pytest.fixture
def said(monkeypatch):
    """Return the list of what is announced to the user during the test."""
    lines = []
    monkeypatch.setattr(notices, "rank_zero_info", lines.append)
    return lines


@pytest.fixture
def run(llama, tokenizer, make_datamodule, make_trainer):
    """Return a maker of fits: (callback, module, datamodule)."""

    def make(balancer, lr=0.1, peft=None, steps=4, batch_size=8, accumulate=1, seed=0, trainer=None, **glue):
        module = MultitaskLM(llama(), tokenizer, peft=peft, optimizer=partial(torch.optim.SGD, lr=lr), seed=seed)
        callback = TaskBalancing(balancer, **glue)
        datamodule = make_datamodule(batch_size=batch_size)
        make_trainer(
            max_steps=steps,
            max_epochs=-1,
            accumulate_grad_batches=accumulate,
            callbacks=[callback],
            limit_val_batches=0,
            **(trainer or {}),
        ).fit(module, datamodule)
        return callback, module, datamodule

    return make


def test_the_last_block_is_found_under_an_adapter(llama, tokenizer):
    module = MultitaskLM(llama(), tokenizer, peft=LORA)
    names = {id(p): name for name, p in module.named_parameters()}
    chosen = [names[id(p)] for p in shared_parameters(module, "last_block")]
    assert chosen == [n for n in names.values() if ".layers.1." in n and "lora_" in n]
    assert len(shared_parameters(module, r"layers\.0\..*lora_A")) == 7


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_gradient_norms_are_those_of_the_tasks_losses(run, peft):
    norms = []

    class Watched(GradNorm):
        def update(self, state, observation):
            norms.append((observation.grad_norms, observation.train_losses))
            return super().update(state, observation)

    _, module, datamodule = run(Watched(), lr=0.0, peft=peft, steps=3)
    datamodule.setup("fit")
    batches = [item for _, item in zip(range(3), datamodule.train_dataloader(), strict=False)]
    for (found, losses), batch in zip(norms, batches, strict=True):
        logits = module.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        picked = logits.flatten(0, 1)[batch["token_index"]].log_softmax(dim=-1)
        each = -picked.gather(1, batch["targets"][:, None]).squeeze(1)
        for task in batch["row_tasks"].unique().tolist():
            mean = each[batch["token_tasks"] == task].mean()
            gradients = torch.autograd.grad(mean, shared_parameters(module, "last_block"), retain_graph=True)
            norm = torch.cat([g.flatten() for g in gradients]).norm()
            assert float(losses[task]) == pytest.approx(mean.item(), rel=1e-5)
            assert float(found[task]) == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("balancer", [FAMO(), GradNorm(), MGDA()], ids=lambda b: b.label)
def test_a_step_is_a_step_however_it_is_cut(run, balancer):
    whole, by_whole, _ = run(balancer)
    cut, by_parts, _ = run(balancer, batch_size=2, accumulate=4)
    torch.testing.assert_close(cut.history["loss"], whole.history["loss"], rtol=1e-4, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(cut.history["weight"], whole.history["weight"], rtol=2e-3, atol=1e-5)
    for one, other in zip(by_whole.parameters(), by_parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_famo_sees_the_dropout_of_the_first_forward(run, accumulate):
    dropped = LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.5, init_lora_weights=False
    )
    seen = []

    class Watched(FAMO):
        def update(self, state, observation):
            seen.append((observation.train_losses, observation.losses_after_step))
            return super().update(state, observation)

    run(Watched(), lr=0.0, peft=dropped, accumulate=accumulate, batch_size=2)
    for before, after in seen:
        torch.testing.assert_close(before, after, rtol=1e-6, atol=0, equal_nan=True)
    seen.clear()
    run(Watched(), lr=0.5, peft=dropped, accumulate=accumulate, batch_size=2)
    assert all((before != after)[before.isfinite()].all() for before, after in seen)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_gradients_in_bfloat16(run, precision):
    wide, _, _ = run(GradNorm(), lr=0.0, steps=2)
    narrow, _, _ = run(GradNorm(), lr=0.0, steps=2, trainer={"precision": precision})
    torch.testing.assert_close(narrow.history["weight"], wide.history["weight"], rtol=0.1, atol=0.01)


def test_gradients_through_checkpointed_activations(llama, tokenizer, make_datamodule, make_trainer):
    weights = []
    for checkpointing in (False, True):
        module = MultitaskLM(llama(), tokenizer, gradient_checkpointing=checkpointing)
        callback = TaskBalancing(GradNorm())
        make_trainer(max_steps=3, max_epochs=-1, callbacks=[callback], limit_val_batches=0).fit(
            module, make_datamodule(batch_size=8)
        )
        weights.append(callback.history["weight"])
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-7)


def test_a_held_out_draw_is_one_forward_with_the_losses_of_its_tasks(llama, tokenizer, make_datamodule, make_trainer):
    module, datamodule = MultitaskLM(llama(), tokenizer), make_datamodule(batch_size=4)
    trainer = make_trainer(max_steps=1, max_epochs=-1, callbacks=[TaskBalancing(Uniform())], limit_val_batches=0)
    trainer.fit(module, datamodule)
    stream = HeldOutStream(datamodule.held_out_dataloaders(), datamodule.task_names, seed=0)
    calls = []
    forward = module.task_losses
    module.task_losses = lambda batch: calls.append(len(batch["input_ids"])) or forward(batch)
    for number in range(3):
        together = stream.measure_draw(number, trainer, module)
        assert calls == [4]
        apart = stream.measure(stream.draw(number), trainer, module)
        assert calls == [4, 2, 2]
        torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-7, equal_nan=True)
        calls.clear()


def test_an_interval_is_found_and_kept_by_a_resumed_run(
    llama, tokenizer, make_datamodule, make_trainer, tmp_path, said
):
    def run(steps, checkpoint=None):
        module = MultitaskLM(llama(), tokenizer)
        callback = ConvergenceBalancer(max_overhead=0.2)
        trainer = make_trainer(max_steps=steps, max_epochs=-1, callbacks=[callback], limit_val_batches=0)
        trainer.fit(module, make_datamodule(batch_size=4), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return callback

    first = run(20)
    assert first.interval >= 1
    assert any(f"Every {first.interval} steps, records take a share of 0.2" in line for line in said)
    budget = first._cadence.budget
    assert first.interval == math.ceil(1.1 * budget.record_seconds / (0.2 * budget.step_seconds)) or first.interval == 1
    said.clear()
    steps = 20 + 2 * first.interval
    resumed = run(steps, tmp_path / "last.ckpt")
    assert resumed.interval == first.interval
    assert all(step % first.interval == 0 and step > 14 for step in resumed.history["step"])
    assert resumed.history["step"][-1] > 20
    assert not any("records take a share" in line for line in said)
