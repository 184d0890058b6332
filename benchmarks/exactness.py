"""Does an optimizer step depend on how it is cut into micro-batches and ranks? Gradients against one big batch.

A tiny random model in float32, rows of very unequal length, tasks that most micro-batches lack, unequal loss weights.
The reference is written out in plain PyTorch. The peers' rules, cut into four, are compared with themselves uncut.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from measure import Check, arguments, one_quiet_thread, report
from synthetic import byte_tokenizer, tiny_llama
from torch import Tensor, nn

from lightning_coba import MultitaskDataModule, MultitaskLM, Task
from lightning_coba.data.planning.collate import collate

#: Rows of each task; the last ones are absent from most steps.
SIZES = (60, 40, 20, 6, 3)
WEIGHTS = torch.tensor([0.3, 0.1, 0.25, 0.15, 0.2])
#: (micro-batches of a rank, ranks). Ranks are forked, which autograd allows until it has run in this process.
CUTS = ((1, 2), (2, 2), (1, 1), (2, 1), (4, 1))
PEERS_CUT = 4

Rule = Callable[[Tensor, Tensor], Tensor]


class Gradients(L.Callback):
    """Keeps the gradient of every optimizer step as one vector, written by the first rank."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Copy."""
        self.seen.append(_flat(pl_module.model))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write: ranks may be processes of their own."""
        if trainer.is_global_zero:
            torch.save(self.seen, self.path)


def tasks(seed: int) -> list[Task]:
    """Return tasks whose completions have 2 to 120 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def rows(task: int, count: int) -> list[dict[str, str]]:
        lengths = torch.randint(1, 120, (count, 2), generator=generator).tolist()
        return [
            {"prompt": f"{task}.{i} " + "p" * (a // 4), "completion": "abcdefgh"[i % 8] * b}
            for i, (a, b) in enumerate(lengths)
        ]

    held_out = [
        [{"prompt": f"{split} {task}", "completion": "x"}] for task in range(len(SIZES)) for split in ("v", "t")
    ]
    return [Task(f"task{k}", rows(k, n), held_out[2 * k], held_out[2 * k + 1]) for k, n in enumerate(SIZES)]


def datamodule(given: argparse.Namespace, parts: int = 1) -> MultitaskDataModule:
    """Return the data with steps of ``given.rows`` rows, cut into so many parts."""
    return MultitaskDataModule(
        tasks(given.seed),
        tokenizer=byte_tokenizer(),
        batch_size=given.rows // parts,
        batching="random",
        max_length=256,
        seed=given.seed,
    )


def trained(given: argparse.Namespace, accumulate: int, ranks: int, folder: str) -> list[Tensor]:
    """Return the gradients of some steps through the Trainer."""
    data = datamodule(given, accumulate * ranks)
    # A learning rate of 0: every step is then compared at the same weights.
    sgd = partial(torch.optim.SGD, lr=0.0)
    module = MultitaskLM(tiny_llama(given.seed), byte_tokenizer(), optimizer=sgd, tasks=data.task_names)
    module.task_weights.assign(WEIGHTS)
    path = Path(folder) / f"{accumulate}-{ranks}.pt"
    L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp_fork" if ranks > 1 else "auto",
        max_steps=given.repetitions,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=[Gradients(path)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(module, data)
    return torch.load(path)


def our_rule(losses: Tensor, token_tasks: Tensor) -> Tensor:
    """Return K / P times the weighted sum of the task means over the P tasks that are present."""
    present = token_tasks.unique().tolist()
    means = torch.stack([losses[token_tasks == k].mean() for k in present])
    return len(WEIGHTS) / len(present) * (WEIGHTS[present] * means).sum()


def released_rule(losses: Tensor, token_tasks: Tensor) -> Tensor:
    """Return the weighted mean of the task means over the tasks that are present."""
    present = token_tasks.unique().tolist()
    means = torch.stack([losses[token_tasks == k].mean() for k in present])
    return (WEIGHTS[present] * means).sum() / WEIGHTS[present].sum()


def token_mean(losses: Tensor, token_tasks: Tensor) -> Tensor:
    """Return what a plain loop minimises."""
    return losses.mean()


def gradient(model: nn.Module, batches: Sequence[dict[str, Tensor]], rule: Rule) -> Tensor:
    """Return the gradient of the mean of a rule over batches, from full logits."""
    model.zero_grad()
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.flatten(0, 1)
        losses = nn.functional.cross_entropy(logits[batch["token_index"]], batch["targets"], reduction="none")
        (rule(losses, batch["token_tasks"]) / len(batches)).backward()
    return _flat(model)


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None])


def _error(value: Tensor, reference: Tensor) -> float:
    return ((value - reference).norm() / reference.norm()).item()


def main() -> int:
    """Compare."""
    parser = arguments(__doc__, "exactness", repetitions=4)
    parser.add_argument("--rows", type=int, default=16, help="rows of an optimizer step, a multiple of 4")
    given = parser.parse_args()
    one_quiet_thread()
    with tempfile.TemporaryDirectory() as folder:
        got = {cut: trained(given, *cut, folder) for cut in CUTS}
    data = datamodule(given)
    data.setup("fit")
    steps = [batch for batch, _ in zip(data.train_dataloader(), range(given.repetitions), strict=False)]
    model = tiny_llama(given.seed)

    def micro_batches(step: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        pairs = torch.stack([step["row_tasks"], step["row_ids"]], dim=1)
        return [collate(part, data.corpus.tokens["train"], 256) for part in pairs.chunk(PEERS_CUT)]

    references = [gradient(model, [step], our_rule) for step in steps]
    checks, errors = [], {}
    for (accumulate, ranks), gradients in got.items():
        name = f"ours, {ranks} rank{'s' * (ranks > 1)} x {accumulate} micro-batch{'es' * (accumulate > 1)}"
        errors[name] = [_error(a, b) for a, b in zip(gradients, references, strict=True)]
        checks.append(Check(name, [max(errors[name])], "<=", 1e-5, ""))
    for name, rule in {"plain loop": token_mean, "released CoBa": released_rule}.items():
        errors[name] = [_error(gradient(model, micro_batches(s), rule), gradient(model, [s], rule)) for s in steps]
    absent = [len(WEIGHTS) - len(step["token_tasks"].unique()) for step in steps]
    return report("exactness", given, checks, errors, absent_tasks=absent)


if __name__ == "__main__":
    raise SystemExit(main())
