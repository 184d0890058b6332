"""The gradient of an optimizer step is that of one big batch, however micro-batches and ranks share it."""

from functools import partial

import lightning as L
import pytest
import torch
from peft import LoraConfig

from lightning_coba import MultitaskLM, TaskBalancing
from lightning_coba.balancers import Fixed, TokenMean, Uniform
from lightning_coba.functional import combine, task_losses, task_means

TASKS = {"short": 13, "long": 9, "rare": 2}
WEIGHTS = {"short": 0.2, "long": 0.5, "rare": 0.3}
NUM_ROWS = sum(TASKS.values())

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*it expects at least")


def rows(task, count, start):
    """Tasks of very unequal lengths, and rows of very unequal lengths within them."""
    words = {"short": 1, "long": 9, "rare": 4}[task]
    return [
        {"prompt": f"{task} {i}" + " p" * (i % 7), "completion": "abc" * words + "!" * (5 * (i % 4))}
        for i in range(start, start + count)
    ]


class Gradients(L.Callback):
    """Keep the gradient of every optimizer step, and leave it in a file: spawned processes end with the fit."""

    def __init__(self, path):
        self.path = path
        self.steps = []
        self.rows = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pairs = zip(batch["row_tasks"].tolist(), batch["row_ids"].tolist(), strict=True)
        self.rows.append(list(pairs) if len(batch["targets"]) else [])

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        grads = [p.grad.flatten() for p in pl_module.parameters() if p.requires_grad]
        self.steps.append(torch.cat(grads).clone())

    def on_train_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            torch.save({"gradients": torch.stack(self.steps), "logged": dict(trainer.callback_metrics)}, self.path)


@pytest.fixture
def gradients(llama, tokenizer, make_trainer, tmp_path):
    """Return a maker of the gradients of an epoch's steps; the parameters stay where they are."""

    def make(batch_size=8, accumulate=1, devices=1, balancer=None, peft=None, trainer=None, **data):
        from lightning_coba.data import MultitaskDataModule, Task

        tasks = [Task(name, rows(name, n, 0), rows(name, 3, 300), rows(name, 3, 400)) for name, n in TASKS.items()]
        datamodule = MultitaskDataModule(tasks, tokenizer=tokenizer, batch_size=batch_size, max_length=96, **data)
        module = MultitaskLM(llama(), tokenizer, peft=peft, optimizer=partial(torch.optim.SGD, lr=0.0))
        keep = Gradients(tmp_path / "gradients.pt")
        make_trainer(
            max_epochs=1,
            accumulate_grad_batches=accumulate,
            devices=devices,
            strategy="ddp_spawn" if devices > 1 else "auto",
            callbacks=[TaskBalancing(balancer or Fixed(WEIGHTS)), keep],
            limit_val_batches=0,
            log_every_n_steps=1,
            **(trainer or {}),
        ).fit(module, datamodule)
        found = torch.load(keep.path)
        return found["gradients"], found["logged"], keep.rows

    return make


def flat(batches):
    return [pair for pairs in batches for pair in pairs]


def relative_error(found, wanted):
    return ((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max().item()


@pytest.fixture
def big_batch(llama, tokenizer, gradients):
    """Return the gradient of given rows as one batch, computed without Trainer, datamodule or module."""

    def make(pairs):
        model = llama().train()
        losses, tasks = [], []
        for task, row in pairs:
            text = rows(list(TASKS)[task], TASKS[list(TASKS)[task]], 0)[row]
            prompt, completion = (tokenizer(text[key], add_special_tokens=False).input_ids for key in text)
            ids = torch.tensor([[*prompt, *completion, tokenizer.eos_token_id]])
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="none"))
            tasks += [task] * len(losses[-1])
        sums = task_losses(torch.cat(losses), torch.tensor(tasks), 3)
        combine(task_means(sums), torch.tensor(list(WEIGHTS.values())), sums.counts > 0).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    return make


def test_one_micro_batch_is_the_gradient_of_its_rows(gradients, big_batch):
    found, _, batches = gradients(batch_size=8)
    assert len(found) == len(batches) == 3
    wanted = torch.stack([big_batch(pairs) for pairs in batches])
    assert relative_error(found, wanted) < 1e-5


@pytest.mark.parametrize(
    ("balancer", "batching"),
    [
        (Fixed(WEIGHTS), "grouped"),
        (Fixed(WEIGHTS), "packed"),
        (Uniform(), "random"),
        (TokenMean(), "grouped"),
    ],
)
def test_accumulation_changes_nothing(gradients, balancer, batching):
    options = {"balancer": balancer, "batching": batching, "seed": 3}
    whole, logged, _ = gradients(batch_size=8, **options)
    for batch_size, accumulate in ((4, 2), (2, 4), (1, 8)):
        found, also, _ = gradients(batch_size, accumulate, **options)
        assert found.shape == whole.shape
        assert relative_error(found, whole) < 1e-5
        for key, value in logged.items():
            torch.testing.assert_close(also[key], value, rtol=1e-5, atol=0, equal_nan=True)


def test_short_last_window_is_exact(gradients, big_batch):
    """26 rows in micro-batches of 2, 4 of them a step, and Lightning stops after 6: a window of 4 and one of 2."""
    found, _, batches = gradients(2, 4, trainer={"limit_train_batches": 6})
    assert [len(pairs) for pairs in batches] == [2] * 6
    windows = [flat(batches[:4]), flat(batches[4:])]
    assert relative_error(found, torch.stack([big_batch(pairs) for pairs in windows])) < 1e-5


def test_an_epoch_that_is_no_whole_number_of_steps_is_exact(gradients, big_batch):
    found, _, batches = gradients(3, 3, seed=1)  # 24 rows in steps of 9, 9 and 6
    windows = [flat(batches[i : i + 3]) for i in range(0, len(batches), 3)]
    assert [len(window) for window in windows] == [9, 9, 6]
    assert relative_error(found, torch.stack([big_batch(pairs) for pairs in windows])) < 1e-5


@pytest.mark.parametrize("batching", ["grouped", "packed"])
def test_two_ranks_change_nothing(gradients, batching):
    options = {"peft": LoraConfig(target_modules="all-linear", init_lora_weights=False), "batching": batching}
    whole, logged, _ = gradients(batch_size=10, **options)  # the last step has four rows
    for batch_size, accumulate in ((5, 1), (1, 5)):
        found, also, _ = gradients(batch_size, accumulate, devices=2, **options)
        assert relative_error(found, whole) < 1e-5
        for key, value in logged.items():
            torch.testing.assert_close(also[key], value, rtol=1e-5, atol=0, equal_nan=True)


def test_means_of_means_would_not_do(gradients, big_batch):
    """What the exact route is for: the usual mean over micro-batches is far off on the same rows."""
    _, _, batches = gradients(2, 4)
    window = batches[:4]
    exact = big_batch(flat(window))
    usual = torch.stack([big_batch(pairs) for pairs in window]).mean(dim=0)
    assert (usual - exact).norm() / exact.norm() > 0.05
