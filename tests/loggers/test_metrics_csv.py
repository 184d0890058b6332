import csv
import math
import pickle

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from lightning_coba.loggers import MetricsCSV


def log(logger, steps, validate_every=3):
    """Log as a run would: some metrics each step, others now and then, one from step 7 on."""
    for step in steps:
        logger.log_metrics({"train_loss": 1 / (step + 1), "epoch": 0}, step)
        if step % validate_every == 2:
            logger.save()
            logger.log_metrics({"val_loss/qa": math.pi / (step + 1)}, step)
        if step >= 7:
            logger.log_metrics({"late": torch.tensor(0.1)}, step)
    logger.finalize("success")


@pytest.fixture
def uninterrupted(tmp_path):
    logger = MetricsCSV(tmp_path / "whole")
    log(logger, range(12))
    return logger.path.read_bytes()


def test_the_file_has_a_row_a_step_and_columns_in_order_of_appearance(uninterrupted):
    rows = list(csv.DictReader(uninterrupted.decode().splitlines()))
    assert list(rows[0]) == ["step", "train_loss", "epoch", "val_loss/qa", "late"]
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert [float(row["train_loss"]) for row in rows] == [1 / (step + 1) for step in range(12)]
    assert [row["val_loss/qa"] != "" for row in rows] == [step % 3 == 2 for step in range(12)]
    assert float(rows[8]["late"]) == torch.tensor(0.1).item()


@pytest.mark.parametrize("killed", range(1, 12))
@pytest.mark.parametrize("back", [0, 1, 4])
@pytest.mark.parametrize("reopen", [True, False])
def test_truncate_and_continue_equals_uninterrupted(tmp_path, uninterrupted, killed, back, reopen):
    logger = MetricsCSV(tmp_path)
    log(logger, range(killed))
    if reopen:
        logger = MetricsCSV(tmp_path)
    resumed = max(killed - back, 0)
    logger.truncate(resumed)
    log(logger, range(resumed, 12))
    assert logger.path.read_bytes() == uninterrupted


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_a_file_killed_at_any_byte_is_repaired(tmp_path, uninterrupted, length):
    path = tmp_path / "metrics.csv"
    path.write_bytes(uninterrupted[:length])
    whole = uninterrupted[:length].count(b"\n") - 1
    logger = MetricsCSV(tmp_path)
    # The last row may lack what its step would still have logged: it is the resumed run's to log.
    resumed = max(whole - 1, 0)
    logger.truncate(resumed)
    log(logger, range(resumed, 12))
    assert logger.path.read_bytes() == uninterrupted


def test_opening_again_erases_nothing_and_joins_the_last_step(tmp_path):
    first = MetricsCSV(tmp_path)
    first.log_metrics({"a": 1.0}, 0)
    first.log_metrics({"a": 2.0}, 1)
    first.save()
    second = MetricsCSV(tmp_path)
    second.log_metrics({"b": 3.0}, 1)
    second.log_metrics({"a": 4.0}, 2)
    second.save()
    assert second.path.read_text() == "step,a,b\n1,1.0,\n2,2.0,3.0\n3,4.0,\n"


def test_a_row_is_on_disk_when_the_next_step_begins(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    assert not logger.path.exists()
    logger.log_metrics({"a": 2.0}, 1)
    assert logger.path.read_text() == "step,a\n1,1.0\n"
    logger.save()
    logger.log_metrics({"a": 5.0}, 1)  # logged again: the last value counts
    logger.save()
    assert logger.path.read_text() == "step,a\n1,1.0\n2,5.0\n"


def test_a_death_while_the_file_is_replaced_leaves_the_old_one(tmp_path, monkeypatch):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    logger.save()

    def die(*_):
        raise KeyboardInterrupt

    logger.log_metrics({"b": 1.0}, 1)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", die)
        with pytest.raises(KeyboardInterrupt):
            logger.save()
    assert logger.path.read_text() == "step,a\n1,1.0\n"
    logger.finalize("failed")  # Lightning still calls this after Ctrl-C: nothing is lost
    assert logger.path.read_text() == "step,a,b\n1,1.0,\n2,,1.0\n"


def test_nan_is_a_value_and_odd_names_are_quoted(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({'a, "b"': math.nan, "c": math.inf}, 0)
    logger.save()
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({'a, "b"': -0.0}, 1)
    logger.save()
    assert logger.path.read_text() == 'step,"a, ""b""",c\n1,nan,inf\n2,-0.0,\n'


def test_truncate_to_nothing_and_before_the_first_row(tmp_path):
    logger = MetricsCSV(tmp_path / "run")
    logger.truncate(5)
    assert not (tmp_path / "run").exists()
    logger.log_metrics({"a": 1.0}, 3)
    logger.truncate(0)
    assert logger.path.read_text() == "step\n"


def test_no_step_joins_the_last_row(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0}, 4)
    logger.log_metrics({"b": 2.0})
    logger.log_metrics({}, 5)
    logger.save()
    assert logger.path.read_text() == "step,a,b\n5,1.0,2.0\n"


@pytest.mark.parametrize("value", [[1.0], torch.ones(2), None, "fast"])
def test_what_is_no_scalar_is_refused_by_name(tmp_path, value):
    with pytest.raises(ValueError, match="'speed'"):
        MetricsCSV(tmp_path).log_metrics({"speed": value}, 0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("epoch,loss\n1,2\n", "another program's"),
        ("step,a\n1,2,3\n", ":2: a row"),
        ("step,a\nx,2\n", ":2: a row"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused_untouched(tmp_path, content, complaint):
    (tmp_path / "metrics.csv").write_text(content)
    logger = MetricsCSV(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=complaint):
            logger.log_metrics({"a": 1.0}, 0)
    assert (tmp_path / "metrics.csv").read_text() == content


def test_only_rank_zero_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = MetricsCSV(tmp_path / "run")
    log(logger, range(3))
    logger.truncate(1)
    assert not (tmp_path / "run").exists()


def test_it_travels_to_another_process(tmp_path):
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    copy = pickle.loads(pickle.dumps(logger))
    copy.log_metrics({"a": 2.0}, 1)
    copy.save()
    assert copy.path.read_text() == "step,a\n1,1.0\n2,2.0\n"


class Slope(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, _):
        loss = (self.weight - batch.mean()) ** 2
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", (self.weight - batch.mean()) ** 2)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and on resuming inside an epoch
def test_a_resumed_fit_leaves_the_file_of_an_uninterrupted_one(tmp_path):
    def fit(resume=None):
        logger = MetricsCSV(tmp_path)
        if resume:
            logger.truncate(torch.load(resume)["global_step"])
        trainer = Trainer(
            logger=logger,
            callbacks=[ModelCheckpoint(monitor="val_loss", save_top_k=-1, filename="{step}")],
            max_epochs=2,
            log_every_n_steps=1,
            val_check_interval=2,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        # The same batch each time: Lightning does not put a plain loader back to where it was.
        loader = torch.utils.data.DataLoader(torch.ones(4))
        trainer.fit(Slope(), loader, loader, ckpt_path=resume)
        return logger.path.read_bytes()

    whole = fit()
    assert whole.count(b"\n") == 1 + 8
    for step in (2, 4, 6):
        assert fit(resume=tmp_path / "checkpoints" / f"step={step}.ckpt") == whole
