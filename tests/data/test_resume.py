"""A run that is cut and resumed trains on the same rows, in the same order, as one that was not."""

import contextlib
import logging

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

EPOCH = 10  # micro-batches: 39 rows in batches of 4


class CutError(Exception):
    pass


class CutBeforeBatch(Callback):
    """Stand in for a kill: raise at the start of the given micro-batch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if len(pl_module.trained) == self.batch:
            raise CutError


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)


@pytest.fixture
def fit(recorder, make_datamodule, tmp_path):
    def fit(ckpt_path=None, callbacks=(), mixing="proportional", data=None, **options):
        module = recorder()
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=bool(callbacks),
            callbacks=list(callbacks),
            default_root_dir=tmp_path,
            **options,
        )
        with contextlib.suppress(CutError):
            trainer.fit(module, datamodule=make_datamodule(mixing=mixing, **(data or {})), ckpt_path=ckpt_path)
        return module, trainer

    return fit


@pytest.mark.parametrize("mixing", ["proportional", "uniform", "stratified"])
def test_uninterrupted_run_takes_another_order_every_epoch(fit, mixing):
    module, _ = fit(max_epochs=3, mixing=mixing)
    epochs = [module.trained[i : i + EPOCH] for i in range(0, 3 * EPOCH, EPOCH)]
    assert len(module.trained) == 3 * EPOCH
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(
    ("options", "cuts"),
    [
        ({"max_epochs": 3}, [3, EPOCH, EPOCH + 4]),
        ({"max_epochs": 3, "mixing": "stratified"}, [13]),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, [4, EPOCH, EPOCH + 6]),
        ({"max_epochs": 3, "val_check_interval": 4}, [4, 9, EPOCH + 8]),
        ({"max_epochs": 3, "limit_train_batches": 4}, [3, 4, 9]),
    ],
)
def test_resumed_run_goes_on_with_the_next_row(fit, tmp_path, options, cuts):
    whole, _ = fit(**options)
    for cut in cuts:
        save = ModelCheckpoint(tmp_path / str(cut), every_n_train_steps=1, save_top_k=-1, save_last=True)
        before, _ = fit(callbacks=[save, CutBeforeBatch(cut)], **options)
        after, _ = fit(ckpt_path=tmp_path / str(cut) / "last.ckpt", **options)
        assert len(before.trained) == cut
        assert before.trained + after.trained == whole.trained


@pytest.mark.parametrize("when", ["validation", "epoch"])
def test_checkpoints_of_later_hooks_resume_alike(fit, tmp_path, when):
    whole, _ = fit(max_epochs=3, val_check_interval=5)
    save = ModelCheckpoint(tmp_path, save_on_train_epoch_end=when == "epoch", save_last=True)
    fit(max_epochs=3, val_check_interval=5, callbacks=[save, CutBeforeBatch(EPOCH + 7)])
    after, _ = fit(max_epochs=3, val_check_interval=5, ckpt_path=tmp_path / "last.ckpt")
    assert after.trained == whole.trained[EPOCH + (5 if when == "validation" else 0) :]


@pytest.mark.parametrize("cut", [3, EPOCH + 4])
def test_batch_that_an_exception_cut_off_comes_again(fit, tmp_path, cut):
    whole, _ = fit(max_epochs=2)
    fit(max_epochs=2, callbacks=[OnExceptionCheckpoint(tmp_path, "cut"), CutBeforeBatch(cut)])
    after, _ = fit(max_epochs=2, ckpt_path=tmp_path / "cut.ckpt")
    assert after.trained == whole.trained[cut:]


@pytest.mark.parametrize("steps", [3, EPOCH, EPOCH + 2])
def test_run_that_max_steps_ended_within_an_epoch_goes_on_with_its_rest(fit, tmp_path, steps):
    whole, _ = fit(max_steps=2 * EPOCH + 1)
    first, trainer = fit(max_steps=steps)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    second, _ = fit(max_steps=2 * EPOCH + 1, ckpt_path=tmp_path / "end.ckpt")
    assert first.trained + second.trained == whole.trained


def test_order_does_not_depend_on_the_global_generator(fit):
    torch.manual_seed(0)
    first, _ = fit(max_steps=4)
    torch.manual_seed(1)
    assert fit(max_steps=4)[0].trained == first.trained


def test_overfitting_repeats_its_batches(fit):
    module, _ = fit(max_epochs=3, overfit_batches=2)
    assert module.trained == module.trained[:2] * 3


def test_validation_in_the_trainer_shows_every_row_once_a_pass(fit):
    module, _ = fit(max_epochs=1, num_sanity_val_steps=0)
    seen = [pair for batch in module.validated for pair in batch]
    assert sorted(seen) == [(task, row) for task in range(3) for row in range(6)]


class KeepRows(Callback):
    """Leave what each rank read in a file: spawned processes end with the fit."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.trained, self.folder / f"rank{trainer.global_rank}.pt")


def windows(batches, size):
    # A set: a rank without rows reads one that does not count.
    return [sorted({pair for batch in batches[i : i + size] for pair in batch}) for i in range(0, len(batches), size)]


@pytest.mark.parametrize(
    ("data", "steps"),
    [
        ({"batching": "grouped"}, 3),
        ({"batching": "grouped"}, 7),  # in the second epoch
        ({"batching": "packed", "max_length": 24}, 7),
        ({"batch_tokens": 40}, 3),
    ],
)
def test_another_number_of_ranks_goes_on_with_the_same_steps(fit, tmp_path, data, steps):
    """Two ranks with 4 rows each, then one rank: with one micro-batch a step, or two, or more rows."""
    accumulate = 2 if "batch_tokens" in data else 1  # a budget's steps are counted in micro-batches
    whole, _ = fit(max_epochs=3, accumulate_grad_batches=accumulate, data={**data, "batch_size": 8 // accumulate})
    wanted = windows(whole.trained, accumulate)
    folder = tmp_path / "two"
    folder.mkdir()
    save = ModelCheckpoint(folder, every_n_train_steps=steps, save_top_k=-1, save_last=True)
    two = {"devices": 2, "strategy": "ddp_spawn"}
    fit(max_steps=steps, max_epochs=3, callbacks=[save, KeepRows(folder)], data={**data, "batch_size": 4}, **two)
    ranks = [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]
    before = [sorted(set(a) | set(b)) for a, b in zip(*ranks, strict=True)]
    for accumulate, batch_size in ((1, 4), (2, 4), (1, 8), (4, 2)):
        after, trainer = fit(
            max_epochs=3,
            accumulate_grad_batches=accumulate,
            data={**data, "batch_size": batch_size},
            ckpt_path=folder / "last.ckpt",
        )
        assert before + windows(after.trained, accumulate) == wanted
        assert trainer.global_step == len(wanted)


def test_checkpoint_inside_a_window_cannot_change_the_accumulation(fit, tmp_path):
    _, trainer = fit(max_epochs=1, limit_train_batches=3, accumulate_grad_batches=4)
    trainer.save_checkpoint(tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match="accumulate_grad_batches` must stay 4"):
        fit(max_epochs=2, accumulate_grad_batches=2, ckpt_path=tmp_path / "odd.ckpt")
