"""The multitask module: its losses, its logs, and checkpoints that hold what is trained and nothing else."""

import contextlib
import math
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader
from transformers import GraniteConfig, GraniteForCausalLM, get_cosine_schedule_with_warmup

from lightning_coba import ConvergenceBalancer, MultitaskLM
from lightning_coba.callbacks import LastCheckpoint
from lightning_coba.data.planning.collate import collate

# The balancer of a run this short says so.
pytestmark = pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about")

ADAM = partial(torch.optim.AdamW, lr=3e-3)
COSINE = partial(get_cosine_schedule_with_warmup, num_warmup_steps=2)
PAIRS = [(0, 1), (1, 2), (0, 17), (1, 5), (1, 0)]
ALONE = [(0, 3), (0, 4)]


def lora(**options):
    return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 4, **options})


@pytest.fixture
def make_module(llama, tokenizer):
    def make(**options):
        return MultitaskLM(**{"model": llama(), "tokenizer": tokenizer, "optimizer": ADAM, **options})

    return make


@pytest.fixture
def datamodule(make_datamodule):
    return make_datamodule()


def task_means_by_hand(model, batch, tasks=2):
    """Full logits, labels of -100 everywhere but on one task's completion tokens, and the model's own loss."""
    ids, width = batch["input_ids"], batch["input_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits[:, -width:]
    means, counts = [], []
    for task in range(tasks):
        labels = torch.full_like(ids, -100).flatten()
        mine = batch["token_index"][batch["token_tasks"] == task] + 1
        labels[mine] = ids.flatten()[mine]
        labels = labels.reshape(ids.shape)
        kept = (labels[:, 1:] != -100).sum()
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
        )
        means.append(loss if kept else logits.sum() * 0)
        counts.append(int(kept))
    return torch.stack(means), torch.tensor(counts)


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize("pairs", [PAIRS, ALONE])
def test_losses_and_gradient_are_those_of_full_logits_and_masked_labels(make_module, datamodule, batch_of, pairs):
    module, batch = make_module(tasks=["squares", "cubes"]), batch_of(datamodule, pairs)
    means, counts = task_means_by_hand(module.model, batch)
    ours = module.task_losses(batch)
    assert ours.counts.tolist() == counts.tolist()
    # An end token ends every completion, so each row counts one more than its text.
    texts = [datamodule.corpus.text("train", task, row)[1] for task, row in pairs]
    assert int(ours.counts.sum()) == sum(len(text) + 1 for text in texts)
    torch.testing.assert_close(ours.sums, means * counts, rtol=1e-5, atol=1e-6)

    present = counts > 0
    module.task_weights.assign(torch.tensor([0.2, 0.8]))
    loss = module.task_weights.combine(ours)
    weights = torch.tensor([0.2, 0.8])
    expected = (weights * means)[present].sum() * 2 / present.sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    parameters = list(module.model.parameters())
    ours_by_parameter = torch.autograd.grad(loss, parameters)
    by_hand = torch.autograd.grad(expected, parameters)
    assert max(float(g.abs().max()) for g in by_hand) > 1e-3
    for one, other in zip(ours_by_parameter, by_hand, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_uncounted_batch_trains_nothing_and_yields_no_nan(make_module, datamodule, batch_of):
    module = make_module(tasks=["squares", "cubes"])
    losses = module.task_losses(batch_of(datamodule, PAIRS, counted=False))
    assert losses.counts.tolist() == [0, 0]
    loss = module.task_weights.combine(losses)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in module.model.parameters())


@pytest.mark.parametrize(
    "peft",
    [
        lora(),
        IA3Config(
            task_type="CAUSAL_LM",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        ),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        None,
    ],
    ids=["lora", "ia3", "prompt", "full"],
)
def test_every_kind_of_adapter_trains_and_its_export_gives_the_same_logits(
    make_module, make_datamodule, make_trainer, llama, batch_of, tmp_path, peft
):
    module = make_module(peft=peft, optimizer=partial(torch.optim.AdamW, lr=1e-2))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    datamodule = make_datamodule()
    trainer = make_trainer(max_steps=3, limit_val_batches=0)
    trainer.fit(module, datamodule=datamodule)
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= trainable
    assert (len(trainable) == len(before)) == (peft is None)

    module.save_pretrained(tmp_path / "export")
    batch = batch_of(datamodule, PAIRS)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if peft is None:
        loaded = type(llama()).from_pretrained(tmp_path / "export")
    else:
        assert module.has_adapter
        loaded = PeftModel.from_pretrained(llama(), tmp_path / "export")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**inputs).logits, module.model.eval()(**inputs).logits)
        assert not torch.allclose(loaded(**inputs).logits[:, -3:], llama()(**inputs).logits[:, -3:], atol=1e-4)


def test_model_with_scaled_logits_has_its_own_loss(tiny_config, tokenizer, datamodule, batch_of):
    torch.manual_seed(0)
    model = GraniteForCausalLM(GraniteConfig(**tiny_config, logits_scaling=8.0))
    module = MultitaskLM(model, tokenizer, tasks=["squares", "cubes"])
    batch = batch_of(datamodule, PAIRS)
    means, counts = task_means_by_hand(model, batch)
    torch.testing.assert_close(module.task_losses(batch).sums, means * counts)


def test_adapter_starts_alike_for_one_seed_and_leaves_the_random_state_alone(make_module):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = make_module(peft=lora(), seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    again, other = (make_module(peft=lora(), seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


# ------------------------------------------------------------------ validation keys


class Seen(Callback):
    """Keeps the metrics of the last validation pass."""

    def on_validation_end(self, trainer, pl_module):
        self.metrics = {key: value.item() for key, value in trainer.callback_metrics.items()}


def test_validation_losses_are_over_the_whole_pass(make_module, datamodule, make_trainer):
    module, seen = make_module(), Seen()
    make_trainer(callbacks=[seen]).validate(module, datamodule=datamodule, verbose=False)
    rows = datamodule.corpus.tokens["validation"]
    everything = collate([(task, row) for task in (0, 1) for row in range(5)], rows, 256)
    with torch.no_grad():
        means, counts = task_means_by_hand(module.model.eval(), everything)
    assert len(datamodule.val_dataloader()) == 3  # 10 rows in batches of 4: unequal ones
    assert counts[0] != counts[1]
    expected = {
        "val_loss/squares": means[0],
        "val_loss/cubes": means[1],
        "val_loss": means.mean(),
        "val_loss_token": (means * counts).sum() / counts.sum(),
    }
    assert seen.metrics == pytest.approx({key: float(value) for key, value in expected.items()}, rel=1e-5)


def test_rows_beyond_the_model_s_context_are_refused_with_the_setting(make_module, make_datamodule, make_trainer):
    module, datamodule = make_module(), make_datamodule(max_length=32)
    datamodule.setup("fit")
    module.model.config.max_position_embeddings = datamodule.longest_row - 1
    with pytest.raises(ValueError, match=rf"{datamodule.longest_row} tokens.*data\.max_length="):
        make_trainer(max_epochs=1).fit(module, datamodule=datamodule)


class RankReport(Callback):
    """Leaves what a rank has seen in a file: the processes end with the fit."""

    def __init__(self, folder):
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        balancer = next(c for c in trainer.callbacks if isinstance(c, ConvergenceBalancer))
        metrics = {k: v.item() for k, v in trainer.callback_metrics.items() if "val_loss" in k}
        batches = len(trainer.val_dataloaders)
        report = {"metrics": metrics, "records": balancer.history["loss"], "batches": batches}
        torch.save(report, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def test_two_ranks_log_the_losses_of_one_process(make_module, make_datamodule, make_trainer, tmp_path):
    """11 validation rows in batches of 2: an uneven number of full batches for two ranks."""
    sizes = (("squares", 18), ("cubes", 7))
    for devices, batch_size in ((1, 4), (2, 2)):
        trainer = make_trainer(
            max_steps=4,
            val_check_interval=2,
            num_sanity_val_steps=-1,
            callbacks=[
                ConvergenceBalancer(window_records=2, warmup_records=1),
                RankReport(tmp_path),
            ],
            devices=devices,
            strategy="ddp_spawn" if devices == 2 else "auto",
        )
        datamodule = make_datamodule(sizes, batch_size=batch_size, eval_batch_size=2, validation_rows=3)
        trainer.fit(make_module(), datamodule=datamodule)
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert (alone["batches"], first["batches"], second["batches"]) == (3, 2, 2)
    assert first["metrics"].keys() == alone["metrics"].keys()
    assert {"val_loss/squares", "val_loss/cubes", "val_loss", "val_loss_token"} <= first["metrics"].keys()
    assert first["metrics"] == second["metrics"]
    # Gradients are means of rank means, of unequally many tokens: 1e-3, not bits.
    assert first["metrics"] == pytest.approx(alone["metrics"], rel=1e-2)
    torch.testing.assert_close(first["records"], second["records"], rtol=0, atol=0)
    torch.testing.assert_close(first["records"], alone["records"], rtol=1e-2, atol=0)


# ------------------------------------------------------------------ checkpoints


class Rows(Logger):
    """Keeps (step, metrics) in memory."""

    name = version = ""

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows += [(step, key, value) for key, value in sorted(metrics.items())]

    def log_hyperparams(self, params, *args, **kwargs): ...


class CutError(Exception):
    pass


class Cut(Callback):
    """Stands in for a kill, at the start of a micro-batch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.batch_progress.total.completed == self.batch:
            raise CutError


@pytest.fixture
def train(make_module, make_datamodule, make_trainer, tmp_path):
    """A run with dropout, accumulation, a scheduler and a balancer: 25 rows, 7 batches an epoch, 4 epochs."""

    def run(*callbacks, checkpoint=None, peft=None, sizes=(("squares", 18), ("cubes", 7)), **options):
        rows, balancer = Rows(), ConvergenceBalancer(window_records=3, warmup_records=1)
        trainer = make_trainer(
            **{
                "max_epochs": 4,
                "accumulate_grad_batches": 2,
                "val_check_interval": 4,
                "num_sanity_val_steps": -1,
                "log_every_n_steps": 3,
                "logger": rows,
                "enable_checkpointing": True,
                "callbacks": [balancer, LastCheckpoint(tmp_path / "last.ckpt"), *callbacks],
                **options,
            }
        )
        module = make_module(peft=peft or lora(lora_dropout=0.1), scheduler=COSINE)
        torch.manual_seed(len(callbacks))  # dropout must not depend on the global generator
        with contextlib.suppress(CutError):
            trainer.fit(module, datamodule=make_datamodule(sizes), ckpt_path=checkpoint)
        return module, trainer, rows.rows, balancer

    return run


def training_state(trainer):
    [optimizer], [scheduler] = trainer.optimizers, trainer.lr_scheduler_configs
    return optimizer.state_dict(), scheduler.scheduler.state_dict()


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("cut", [5, 13, 20, 22])
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(train, tmp_path, cut):
    module, trainer, rows, balancer = train()
    (tmp_path / "last.ckpt").unlink()
    _, _, before, _ = train(Cut(cut))
    step = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    resumed, second, after, second_balancer = train(checkpoint=tmp_path / "last.ckpt")
    assert 0 < step < trainer.global_step == second.global_step
    assert_same(dict(resumed.named_parameters()), dict(module.named_parameters()))
    assert_same(training_state(second), training_state(trainer))
    assert_same(second_balancer.history, balancer.history)
    kept = [row for row in before if row[0] < step]
    assert len([key for _, key, _ in rows if key == "train_loss"]) == trainer.global_step // 3
    assert_same(
        {(step, key): value for step, key, value in kept + after},
        {(step, key): value for step, key, value in rows},
    )


def test_dropout_is_drawn_anew_every_batch_and_differs_between_seeds(make_module, make_datamodule, make_trainer):
    losses = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].item())

    for seed in (0, 0, 1):
        module = make_module(peft=lora(lora_dropout=0.5), optimizer=partial(torch.optim.SGD, lr=0.0), seed=seed)
        for name, p in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(p, 0.2)
        options = {"max_steps": 3, "overfit_batches": 1, "limit_val_batches": 0}
        make_trainer(callbacks=[Losses()], **options).fit(module, datamodule=make_datamodule())
    assert losses[:3] == losses[3:6]
    assert len(set(losses[:3])) == 3
    assert not set(losses[:3]) & set(losses[6:])


def test_checkpoint_holds_what_is_trained_and_loads_with_weights_only(train, tmp_path):
    module, *_ = train(max_steps=4, max_epochs=-1)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert set(checkpoint["state_dict"]) == trainable
    assert all("lora" in name for name in trainable)
    everything = sum(p.numel() for p in module.parameters())
    assert sum(p.numel() for p in checkpoint["state_dict"].values()) < 0.3 * everything


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (("squares", 18), ("roots", 7))}, r"tasks squares, cubes.*this run has squares, roots"),
        ({"sizes": (("cubes", 7), ("squares", 18))}, r"tasks squares, cubes.*this run has cubes, squares"),
        ({"peft": lora(target_modules=["q_proj"])}, r"other trainable weights.*names differ.*`peft`"),
        ({"peft": lora(r=8, lora_dropout=0.1)}, r"other `peft` settings: r 4, now 8"),
        ({"peft": lora(lora_alpha=99, lora_dropout=0.1)}, r"other `peft` settings: lora_alpha 8, now 99"),
    ],
)
def test_checkpoint_of_something_else_is_refused(train, tmp_path, options, message):
    train(max_steps=4, max_epochs=-1)
    with pytest.raises(ValueError, match=message):
        train(checkpoint=tmp_path / "last.ckpt", max_steps=6, max_epochs=-1, **options)


# ------------------------------------------------------------------ optimizer, scheduler, names


def learning_rates(make_module, make_datamodule, make_trainer, scheduler, **options):
    rates = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = make_trainer(callbacks=[Rates()], limit_val_batches=0, **options)
    trainer.fit(make_module(scheduler=scheduler), datamodule=make_datamodule())
    return [rate / 3e-3 for rate in rates]


def test_number_of_training_steps_is_filled_in(make_module, make_datamodule, make_trainer):
    make = (make_module, make_datamodule, make_trainer)
    # 25 rows in 4 optimizer steps of 2 micro-batches an epoch.
    rates = learning_rates(*make, COSINE, max_epochs=2, accumulate_grad_batches=2)
    steps = [step for step in range(8) for _ in range(2)]
    expected = [s / 2 if s < 2 else 0.5 * (1 + math.cos(math.pi * (s - 2) / 6)) for s in steps]
    assert rates == pytest.approx(expected)
    given = partial(COSINE, num_training_steps=4)
    assert learning_rates(*make, given, max_steps=4)[-1] == pytest.approx(0.5)
    constant = partial(ConstantLR, factor=0.5, total_iters=2)
    assert learning_rates(*make, constant, max_steps=4) == pytest.approx([0.5, 0.5, 1, 1])
    assert learning_rates(*make, None, max_steps=2) == pytest.approx([1, 1])


def test_scheduler_without_an_end_is_refused(make_module, make_datamodule, make_trainer):
    with pytest.raises(ValueError, match=r"max_steps.*must be set where the scheduler"):
        learning_rates(make_module, make_datamodule, make_trainer, COSINE, max_steps=-1, max_epochs=-1)


def test_names_come_from_the_datamodule_or_have_to_be_given(make_module, make_datamodule, make_trainer, batch_of):
    module = make_module()
    make_trainer(fast_dev_run=True).fit(module, datamodule=make_datamodule())
    assert module.task_weights.tasks == ("squares", "cubes")
    loader = DataLoader([batch_of(make_datamodule(), PAIRS)], batch_size=None)
    with pytest.raises(ValueError, match=r"must name the tasks.*tasks=\[\.\.\.\]"):
        make_trainer(max_steps=1, limit_val_batches=0).fit(make_module(), loader, loader)
    named = make_module(tasks=["a", "b"])
    make_trainer(max_steps=1, limit_val_batches=0).fit(named, loader, loader)
    assert named.task_weights.tasks == ("a", "b")


def test_model_object_needs_its_tokenizer(llama):
    with pytest.raises(ValueError, match=r"tokenizer.*must come with a model object"):
        MultitaskLM(llama())


def test_training_logs_are_means_over_the_tokens_since_the_last(train):
    """One step a row and no accumulation: the logged loss is the one that was minimised."""
    losses = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].item())

    _, _, rows, _ = train(Losses(), accumulate_grad_batches=1, log_every_n_steps=4, max_epochs=2)
    logged = {step: value for step, key, value in rows if key == "train_loss"}
    assert logged == pytest.approx({3: sum(losses[:4]) / 4, 7: sum(losses[4:8]) / 4, 11: sum(losses[8:12]) / 4})
    assert {"train_loss/squares", "train_loss/cubes"} <= {key for _, key, _ in rows}


def test_the_training_loss_is_on_every_bar_and_in_no_log_where_the_trainer_never_logs(train):
    _, trainer, _, _ = train(max_epochs=1)
    assert trainer.progress_bar_metrics == {"train_loss": pytest.approx(trainer.logged_metrics["train_loss"].item())}
    _, trainer, rows, _ = train(max_epochs=1, log_every_n_steps=0)
    assert "train_loss" not in {key for _, key, _ in rows}
    assert trainer.global_step == 4


def test_the_three_pieces_work_in_one_trainer(make_module, make_datamodule, make_trainer):
    balancer = ConvergenceBalancer(window_records=4, warmup_records=2)
    module, datamodule = make_module(peft=lora()), make_datamodule(batch_size=6)
    trainer = make_trainer(max_epochs=6, val_check_interval=2, num_sanity_val_steps=-1, callbacks=[balancer])
    trainer.fit(module, datamodule=datamodule)
    assert balancer.tasks == ("squares", "cubes")
    weights = balancer.history["weight"]
    assert torch.equal(weights[0], torch.tensor([0.5, 0.5]).double())
    assert (weights[-1] - 0.5).abs().max() > 1e-3
    assert torch.allclose(weights.sum(dim=1), torch.ones(len(weights)).double())
    last = balancer.history["loss"][-1]
    assert last.tolist() == pytest.approx(
        [trainer.callback_metrics[f"val_loss/{task}"].item() for task in balancer.tasks]
    )
    assert isinstance(module, L.LightningModule)


def test_a_checkpoint_loads_by_its_path_alone(model_folder, make_datamodule, make_trainer, tmp_path):
    module = MultitaskLM(str(model_folder), peft=LoraConfig(r=4, target_modules={"q_proj", "v_proj"}), seed=3)
    trainer = make_trainer(max_steps=2)
    trainer.fit(module, datamodule=make_datamodule())
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    loaded = MultitaskLM.load_from_checkpoint(tmp_path / "some.ckpt", weights_only=True)
    assert loaded.task_weights.tasks == ("squares", "cubes")
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name)), name


def test_a_checkpoint_of_a_model_object_says_what_to_give(llama, tokenizer, make_datamodule, make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.fit(MultitaskLM(llama(), tokenizer), datamodule=make_datamodule())
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    with pytest.raises(ValueError, match=r"model=\.\.\., tokenizer=\.\.\."):
        MultitaskLM.load_from_checkpoint(tmp_path / "some.ckpt")
    loaded = MultitaskLM.load_from_checkpoint(tmp_path / "some.ckpt", model=llama(1), tokenizer=tokenizer)
    assert loaded.task_weights.tasks == ("squares", "cubes")
