"""A run that is made longer: it ends as a run that was planned that long, in whatever does not depend on the length."""

import csv
import json

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from lightning_coba.callbacks import LastCheckpoint
from lightning_coba.cli.new_length import NewLength
from lightning_coba.cli.resumption import Resumption
from lightning_coba.loggers import MetricsCSV

pytestmark = pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about")  # of runs this short


def rows_of(run):
    """Return what was logged step by step, without the test results, which every end of a run adds to its last row."""
    with (run / "metrics.csv").open(newline="") as stream:
        return [{k: v for k, v in row.items() if not k.startswith("test_")} for row in csv.DictReader(stream)]


def test_with_a_constant_schedule_it_is_the_long_run_bit_for_bit(here, overrides, tmp_path, capsys):
    constant = [o for o in overrides if not o.startswith(("scheduler", "trainer.max_epochs"))] + ["scheduler=none"]
    long = tmp_path / "long"
    here(long, *constant, "trainer.max_steps=12")
    for steps, begun in ((6, 6), (5, 4)):  # after a validation pass, and between two
        run = tmp_path / str(steps)
        here(run, *constant, f"trainer.max_steps={steps}")
        capsys.readouterr()
        here(run, *constant, "trainer.max_steps=12", "resume=auto")
        told = " ".join(capsys.readouterr().out.split())
        assert f"at step {begun}, from last.ckpt; {12 - begun} steps are left" in told
        assert f"now trainer.max_steps=12; it was trainer.max_steps={steps}" in told
        assert rows_of(run) == rows_of(long)
        for file in ("balance.csv", "before_after.csv", "adapter/adapter_model.safetensors"):
            assert (run / file).read_bytes() == (long / file).read_bytes(), file
        ours, planned = (json.loads((folder / "run.json").read_text()) for folder in (run, long))
        assert ours.pop("timing")["steps"] == planned.pop("timing")["steps"] == 12
        assert ours == planned


def test_a_length_that_the_run_has_passed_is_refused_and_leaves_it_as_it_is(here, overrides, finished_run):
    before = {file: file.read_bytes() for file in finished_run.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=r"`trainer.max_epochs` must be at least 2, .*; got 1.*name="):
        here(finished_run, *overrides, "trainer.max_epochs=1", "resume=auto")
    with pytest.raises(ValueError, match=r"`trainer.max_steps` must be at least 12, .*; got 7.*name="):
        here(finished_run, *overrides, "trainer.max_steps=7", "resume=auto")
    assert {file: file.read_bytes() for file in finished_run.rglob("*") if file.is_file()} == before


class Scheduled(L.LightningModule):
    """A line whose validation loss never changes, with a schedule over the steps of its fit."""

    def __init__(self, schedule):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.schedule = schedule

    def training_step(self, batch, _):
        return self.line(batch).mean()

    def validation_step(self, batch, _):
        self.log("val_loss", 1.0)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.5)
        schedule = self.schedule(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(folder, max_steps, *callbacks, schedule=lambda o, n: lr_scheduler.ConstantLR(o, 1.0), resume=False):
    """Fit with a pass and a checkpoint after every second step; return the learning rate of each step."""
    last = LastCheckpoint(folder / "checkpoints" / "last.ckpt")
    logger = MetricsCSV(folder)
    trainer = L.Trainer(
        max_steps=max_steps, max_epochs=-1, val_check_interval=2, log_every_n_steps=1, accelerator="cpu", logger=logger,
        callbacks=[*callbacks, last, LearningRateMonitor("step"), NewLength()], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(torch.ones(4, 1))
    trainer.fit(Scheduled(schedule), loader, loader, ckpt_path=last.path if resume else None)
    with logger.path.open(newline="") as stream:
        return {int(row["step"]): float(row["lr-SGD"]) for row in csv.DictReader(stream) if row["lr-SGD"]}


SCHEDULES = {
    "function": lambda o, n: lr_scheduler.LambdaLR(o, lambda step: 1 - step / (n + 1)),
    "cosine": lambda o, n: lr_scheduler.CosineAnnealingLR(o, n),
    "one cycle": lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, n + 1),
    "two": lambda o, n: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(o, n - 2)], [2]
    ),
}


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and on resuming inside an epoch
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_learning_rate_goes_on_where_the_schedule_of_the_new_length_is(tmp_path, schedule):
    planned = fit(tmp_path / "long", 10, schedule=SCHEDULES[schedule])
    short = fit(tmp_path / "run", 4, schedule=SCHEDULES[schedule])
    assert short != {step: rate for step, rate in planned.items() if step <= 4}
    longer = fit(tmp_path / "run", 10, schedule=SCHEDULES[schedule], resume=True)
    assert {step: rate for step, rate in longer.items() if step > 4} == {s: r for s, r in planned.items() if s > 4}


@pytest.mark.filterwarnings("ignore")
def test_early_stopping_waits_again_in_a_longer_run_and_not_in_one_of_the_same_length(tmp_path):
    def stopping(patience=2):
        return EarlyStopping("val_loss", patience=patience)

    assert max(fit(tmp_path, 20, stopping())) == 6  # the first pass and two that are no better
    assert max(fit(tmp_path, 20, stopping(), resume=True)) == 6  # as after a kill before the results were written
    assert max(fit(tmp_path, 30, stopping(), resume=True)) == 10
    assert max(fit(tmp_path, 40, stopping(patience=3), resume=True)) == 12  # what is configured, not what was saved


@pytest.mark.filterwarnings("ignore")
def test_a_fit_killed_behind_its_last_step_says_that_none_is_left(tmp_path, capsys):
    fit(tmp_path, 4)
    fit(tmp_path, 4, Resumption(tmp_path, tmp_path / "checkpoints" / "last.ckpt"), resume=True)
    assert "at step 4, from last.ckpt; no step is left" in " ".join(capsys.readouterr().out.split())
