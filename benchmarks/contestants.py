"""Training loops that race each other: ours on Lightning, and what people use instead.

Each gets its own copy of one model and the same LoRA adapter, AdamW and batches, and returns CPU seconds a step.
"""

import copy
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
from clocks import Clock, HuggingFaceClock, LightningClock
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from lightning_coba import ConvergenceBalancer, MultitaskLM
from lightning_coba.balancers import CoBa
from lightning_coba.balancers.base import Observation
from lightning_coba.loggers import MetricsCSV

IGNORED = -100
OPTIMIZER = partial(torch.optim.AdamW, lr=2e-4, weight_decay=0.0)

Batch = Mapping[str, Tensor]


def lora() -> LoraConfig:
    """Return the adapter that every contestant trains."""
    return LoraConfig(task_type="CAUSAL_LM", r=8, lora_dropout=0.0, target_modules="all-linear")


def with_labels(batch: Batch) -> dict[str, Tensor]:
    """Return the batch as models of transformers take it."""
    labels = torch.full_like(batch["input_ids"], IGNORED).flatten()
    labels[batch["token_index"] + 1] = batch["targets"]
    shape = batch["input_ids"].shape
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "labels": labels.view(shape),
        "row_tasks": batch["row_tasks"],
    }


def ours(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    val_every: int,
    precision: Any = "32-true",
) -> Clock:
    """Train with this package: every key logged at every step, CoBa after each validation pass."""
    module = MultitaskLM(copy.deepcopy(model), tokenizer, lora(), OPTIMIZER, tasks=tasks)
    timer = LightningClock()
    with tempfile.TemporaryDirectory() as folder:
        L.Trainer(
            accelerator="cpu",
            max_steps=len(batches),
            precision=precision,
            val_check_interval=val_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            logger=MetricsCSV(folder),
            callbacks=[ConvergenceBalancer(tasks), timer],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
        ).fit(module, _loader(batches), _loader(held_out))
    return timer.clock


def _loader(batches: Sequence[Batch]) -> DataLoader:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list is a map-style dataset


def plain_loop(model: PreTrainedModel, batches: Iterable[Batch]) -> float:
    """Train with the loop that everybody writes: the model's own loss."""
    adapted, optimizer = _adapted(model)
    clock = Clock()
    for batch in batches:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}
        adapted(**inputs, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    return clock.seconds_per_step


def released_loop(model: PreTrainedModel, batches: Sequence[Batch], held_out: Sequence[Batch], num_tasks: int) -> float:
    """Train as the released CoBa does: full logits, task by task, and a held-out batch after every step.

    The weights come from our form of its update, which costs less than the original.
    """
    adapted, optimizer = _adapted(model)
    balancer = CoBa(window_records=200, warmup_records=3, form="mftcoder")
    state = balancer.init(num_tasks)
    weights = torch.full((num_tasks,), 1 / num_tasks)
    clock = Clock()
    for step, batch in enumerate(batches):
        losses, present = _losses_by_rows(adapted, batch, num_tasks)
        ((weights * losses)[present].sum() / weights[present].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        adapted.eval()
        with torch.no_grad():
            held, seen = _losses_by_rows(adapted, held_out[step % len(held_out)], num_tasks)
        adapted.train()
        state, weights = balancer.update(state, Observation(step=step + 1, present=seen, losses=held.double()))
        clock.tick()
    return clock.seconds_per_step


def huggingface(model: PreTrainedModel, batches: Sequence[Batch], folder: str) -> float:
    """Train with the Trainer of transformers."""
    adapted, _ = _adapted(model)
    data = _rows(batches, ("input_ids", "attention_mask", "labels"))
    settings = TrainingArguments(folder, **_settings(batches))
    return _run(Trainer(adapted, settings, train_dataset=data))


def trl(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batches: Sequence[Batch], folder: str) -> float:
    """Train with trl's SFTTrainer: its default loss, completion tokens only."""
    data = _rows([{**b, "completion_mask": (b["labels"] != IGNORED).long()} for b in batches], _TRL_COLUMNS)
    settings = SFTConfig(
        folder, completion_only_loss=True, gradient_checkpointing=False, max_length=None, **_settings(batches)
    )
    adapted, _ = _adapted(model)
    return _run(SFTTrainer(adapted, settings, train_dataset=data, processing_class=tokenizer))


_TRL_COLUMNS = ("input_ids", "completion_mask")


def _settings(batches: Sequence[Batch]) -> dict[str, Any]:
    """Return what both trainers need to do the same work as the loop, and nothing else."""
    return {
        "per_device_train_batch_size": len(batches[0]["input_ids"]),
        "max_steps": len(batches),
        "optim": "adamw_torch",
        "learning_rate": OPTIMIZER.keywords["lr"],
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _run(trainer: Trainer) -> float:
    timer = HuggingFaceClock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(timer)
    trainer.train()
    return timer.clock.seconds_per_step


def _rows(batches: Sequence[Mapping[str, Tensor]], columns: Sequence[str]) -> Dataset:
    disable_progress_bars()
    return Dataset.from_dict({name: [row for batch in batches for row in batch[name].tolist()] for name in columns})


def _adapted(model: PreTrainedModel) -> tuple[PeftModel, torch.optim.Optimizer]:
    torch.manual_seed(0)  # as MultitaskLM does by default
    adapted = get_peft_model(copy.deepcopy(model), lora()).train()
    return adapted, OPTIMIZER([p for p in adapted.parameters() if p.requires_grad])


def _losses_by_rows(model: nn.Module, batch: Batch, num_tasks: int) -> tuple[Tensor, Tensor]:
    """Return token means of each task from full logits, one selection of rows a task, and which tasks are there."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    logits, labels = logits[:, :-1], batch["labels"][:, 1:]
    losses, present = logits.new_zeros(num_tasks), torch.zeros(num_tasks, dtype=torch.bool)
    for task in range(num_tasks):
        rows = batch["row_tasks"] == task
        if rows.any():
            losses[task] = nn.functional.cross_entropy(logits[rows].flatten(0, 1), labels[rows].flatten())
            present[task] = True
    return losses, present
