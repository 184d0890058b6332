"""What a step takes, by a clock that only moves when a test moves it."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_coba.callbacks import StepTimer, step_timer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # without the one that saved it
]
BATCH, DRAW, VALIDATION, WRITING = 1.0, 0.5, 100.0, 1000.0


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now

    def time(self):
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(step_timer, "time", clock)
    return clock


class Model(L.LightningModule):
    """Takes BATCH a batch, the first two of a run much longer, and VALIDATION a pass."""

    def __init__(self, clock):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.clock = clock
        self.num_batches = 0

    def training_step(self, batch, batch_idx):
        self.num_batches += 1
        self.clock.now += BATCH if self.num_batches > 2 * self.trainer.accumulate_grad_batches else 50 * BATCH
        return self.layer(batch).mean()

    def validation_step(self, batch, batch_idx):
        self.clock.now += VALIDATION

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint):
        self.clock.now += WRITING


class Draws(L.Callback):
    """A callback at work in every batch, before and after the timer's hooks."""

    def __init__(self, clock):
        self.clock = clock

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.clock.now += DRAW


def fit(clock, tmp_path, timer, ckpt_path=None, callbacks=(), draws_first=True, **options):
    draws = [Draws(clock)]
    around = [*draws, timer] if draws_first else [timer, *draws]
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=[*around, *callbacks],
        **({"enable_checkpointing": bool(callbacks), "num_sanity_val_steps": 1} | options),
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(torch.zeros(8, 1), batch_size=1)
    trainer.fit(Model(clock), loader, torch.utils.data.DataLoader(torch.zeros(2, 1)), ckpt_path=ckpt_path)
    return timer


@pytest.mark.parametrize("draws_first", [True, False])
def test_a_step_holds_its_callbacks_and_not_validation(clock, tmp_path, draws_first):
    timer = fit(clock, tmp_path, StepTimer(), max_epochs=2, val_check_interval=4, draws_first=draws_first)
    expected = {"seconds_per_step": BATCH + DRAW, "steps": 16, "validation_seconds": 4 * 2 * VALIDATION}
    assert expected.items() <= timer.timing.items()


def test_it_says_when_the_run_was_and_how_busy_the_machine(clock, tmp_path, monkeypatch):
    loads = iter([1.0] * 4 + [3.0] * 100)
    monkeypatch.setattr(step_timer.os, "getloadavg", lambda: (next(loads), 0.0, 0.0))
    timing = fit(clock, tmp_path, StepTimer(), max_epochs=1, val_check_interval=4).timing
    assert timing["load"] == pytest.approx(1.0)
    assert timing["threads"] == torch.get_num_threads()
    assert 1e9 <= timing["began"] < timing["ended"] <= 1e9 + clock.now


def test_a_step_is_a_whole_accumulation_window(clock, tmp_path):
    timer = fit(clock, tmp_path, StepTimer(), max_epochs=2, val_check_interval=1.0, accumulate_grad_batches=2)
    assert timer.timing["seconds_per_step"] == 2 * (BATCH + DRAW)
    assert timer.timing["steps"] == 8


def test_writing_checkpoints_is_no_part_of_a_step(clock, tmp_path):
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1)
    timer = fit(clock, tmp_path, StepTimer(), max_epochs=1, callbacks=[saver], limit_val_batches=0)
    assert clock.now > WRITING
    assert timer.timing["seconds_per_step"] == BATCH + DRAW


def test_a_resumed_run_goes_on_with_what_was_measured_and_warms_up_again(clock, tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    fit(clock, tmp_path, StepTimer(), max_steps=5, max_epochs=-1, callbacks=[saver], val_check_interval=4)
    file = tmp_path / "step=5.ckpt"
    state = torch.load(file, weights_only=True)["callbacks"]["StepTimer"]
    expected = {"steps": 3, "seconds": 3 * (BATCH + DRAW), "validation_seconds": 2 * VALIDATION, "last_step": 5}
    assert expected.items() <= state.items()
    timer = fit(clock, tmp_path, StepTimer(), file, max_steps=10, max_epochs=-1, val_check_interval=4)
    assert timer.timing["steps"] == 10
    assert timer.timing["seconds_per_step"] == BATCH + DRAW
    assert timer.state_dict()["steps"] == 3 + 3


def test_a_run_of_a_few_steps_measures_nothing(clock, tmp_path):
    assert fit(clock, tmp_path, StepTimer(), max_steps=2, max_epochs=-1).timing == {}


def test_the_device_is_waited_for_once_a_stretch(clock, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(step_timer, "_wait_for", lambda module: waits.append(module.trainer.global_step))
    fit(clock, tmp_path, StepTimer(), max_epochs=2, val_check_interval=4)
    assert waits == [2, 4, 8, 12, 16]
