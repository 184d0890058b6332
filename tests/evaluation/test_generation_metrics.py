"""Metrics in validation: what is logged, when, that training does not notice, and that ranks add up."""

from functools import partial

import lightning as L
import pytest
import torch
from peft import LoraConfig

from lightning_coba.data import MultitaskDataModule
from lightning_coba.evaluation import GenerationMetrics
from lightning_coba.evaluation.evaluating import evaluate_model
from lightning_coba.log_keys import metric_key
from lightning_coba.systems.multitask import MultitaskLM

METRICS = {"capitals": ["chrf", "token_f1"], "odd": ["accuracy", "chrf"]}
KEYS = {metric_key(metric, task) for task, metrics in METRICS.items() for metric in metrics}


class Seen(L.Callback):
    """Keeps what is logged in each pass, and in the end the weights; on ranks, in a file."""

    def __init__(self, folder=None):
        self.folder, self.passes = folder, []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.passes.append({key: float(v) for key, v in trainer.callback_metrics.items() if key in KEYS})

    def on_train_end(self, trainer, pl_module):
        self.weights = torch.cat([p.detach().flatten() for p in pl_module.parameters() if p.requires_grad])
        if self.folder:
            torch.save((self.passes, self.weights), self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


@pytest.fixture
def fit(llama, data_folder, tokenizer, tmp_path):
    def run(*callbacks, checkpoint=None, lr=1e-2, **options):
        adapter = LoraConfig(target_modules="all-linear", r=4, lora_dropout=0.2)
        module = MultitaskLM(llama(), tokenizer, peft=adapter, optimizer=partial(torch.optim.SGD, lr=lr))
        datamodule = MultitaskDataModule(root=data_folder, batch_size=4, max_length=64)
        trainer = L.Trainer(
            **{
                "accelerator": "cpu", "devices": 1, "max_epochs": 2, "logger": False, "enable_progress_bar": False,
                "enable_model_summary": False, "enable_checkpointing": False, "use_distributed_sampler": False,
                "num_sanity_val_steps": 2, "default_root_dir": tmp_path, "val_check_interval": 3, **options,
            },
            callbacks=list(callbacks),
        )  # fmt: skip
        trainer.fit(module, datamodule, ckpt_path=checkpoint)
        return trainer

    return run


def test_metrics_are_logged_in_every_nth_pass_and_training_does_not_notice(fit):
    seen, plain = Seen(), Seen()
    fit(GenerationMetrics(2, rows=4, metrics=METRICS, max_new_tokens=20), seen)
    fit(plain)
    assert torch.equal(seen.weights, plain.weights)
    assert [set(values) for values in seen.passes] == [set(), KEYS, KEYS, KEYS]  # the values stay until the next
    assert seen.passes[1] == seen.passes[2] != seen.passes[3]
    assert all(0 <= value <= 1 for values in seen.passes for value in values.values())


def test_values_are_those_of_an_evaluation_of_the_same_rows(fit, tmp_path, data_folder):
    seen = Seen()
    trainer = fit(GenerationMetrics(rows=100, metrics=METRICS, max_new_tokens=20), seen)
    result = evaluate_model(
        trainer.lightning_module,
        trainer.datamodule,
        tmp_path / "out",
        split="validation",
        metrics=METRICS,
        max_new_tokens=20,
    )
    expected = {metric_key(n, t): m.score.value for t, r in result.tasks.items() for n, m in r.metrics.items()}
    assert seen.passes[-1] == pytest.approx(expected)
    assert expected["val_chrf/capitals"] > 0


def test_rhythm_goes_on_after_a_resume(fit, tmp_path):
    callback = GenerationMetrics(2, rows=2, metrics=METRICS, max_new_tokens=2)
    fit(callback, Seen(), max_epochs=1).save_checkpoint(tmp_path / "c.ckpt")
    passes = callback.state_dict()["num_validations"]
    again = GenerationMetrics(2, rows=2, metrics=METRICS, max_new_tokens=2)
    again.load_state_dict(callback.state_dict())
    assert passes == 2
    assert again.state_dict() == callback.state_dict()
    fit(again, checkpoint=tmp_path / "c.ckpt", max_epochs=2)
    assert again.state_dict()["num_validations"] == 4


def test_two_ranks_find_what_one_does(fit, tmp_path):
    for devices, strategy in ((1, "auto"), (2, "ddp_fork")):
        fit(
            GenerationMetrics(rows=5, metrics=METRICS, max_new_tokens=20), Seen(tmp_path), lr=0.0,
            devices=devices, strategy=strategy, limit_train_batches=2, val_check_interval=2, max_epochs=1,
        )  # fmt: skip
    alone, first, second = (torch.load(tmp_path / f"{name}.pt")[0] for name in ("1-0", "2-0", "2-1"))
    assert first == second == alone
    assert alone[0]["val_chrf/capitals"] > 0


def test_a_module_of_ones_own_is_refused_before_training(tmp_path):
    class Other(L.LightningModule):
        def configure_optimizers(self):
            return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)

        def training_step(self, batch, batch_idx):
            raise AssertionError("training began")

    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, max_epochs=1, callbacks=[GenerationMetrics()],
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"`GenerationMetrics` must be used with a MultitaskLM.*got Other and NoneType"
    ):
        trainer.fit(Other(), torch.utils.data.DataLoader([1]))


@pytest.mark.parametrize("name", ["every_n_validations", "rows", "max_new_tokens", "batch_tokens"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=rf"`GenerationMetrics.{name}` must be at least 1; got 0"):
        GenerationMetrics(**{name: 0})
