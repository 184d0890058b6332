"""The loggers of `coba-train`: the default once as a whole, what is missing, and what the options compose to."""

import importlib.util
import re
import time

import pytest
import yaml
from hydra.utils import instantiate
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_coba import loggers
from lightning_coba.cli.phases import fits_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about"),  # of a run this short
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),  # that of the run which is resumed
]


def events_of(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def test_default_logs_every_key_settings_images_and_results_and_goes_on_after_a_resume(here, overrides, tmp_path):
    run = tmp_path / "run"
    default = [override for override in overrides if override != "logger=csv"]
    here(run, *default, "trainer.max_epochs=1", "callbacks.images.every_n_validations=1")
    here(run, *default, "trainer.max_epochs=2", "callbacks.images.every_n_validations=1", "resume=auto")
    events = events_of(run / "tensorboard")
    scalars = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    columns = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(scalars) == set(columns) - {"step"}
    assert {"test_loss/cubes", "test_token_accuracy/cubes", "test_exact_match", "balance/weight/squares"} <= set(
        scalars
    )
    assert scalars["train_loss"] == list(range(1, 9))
    assert scalars["val_loss"] == [2, 4, 6, 8]
    assert scalars["test_loss"] == [4, 8]
    assert [image.step for image in events.Images("balance/weights")] == [2, 4, 6, 8]
    assert any("hparams" in tag for tag in events.summary_metadata)
    settings = yaml.safe_load((run / "tensorboard" / "hparams.yaml").read_text())
    assert settings["optimizer.lr"] == 0.003


def test_rows_behind_the_checkpoint_are_not_shown_twice(tmp_path):
    first = loggers.RunTensorBoard(tmp_path)
    for step in range(8):
        first.log_metrics({"loss": 1.0}, step)
    first.finalize("failed")
    time.sleep(1.1)  # TensorBoard orders files by the second in their names; attempts of a real run lie further apart
    again = loggers.RunTensorBoard(tmp_path)
    again.truncate(5)
    for step in range(5, 10):
        again.log_metrics({"loss": 2.0}, step)
    again.finalize("success")
    shown = [(event.step, event.value) for event in events_of(tmp_path / "tensorboard").Scalars("loss")]
    assert shown == [(step, 1.0 if step <= 5 else 2.0) for step in range(1, 11)]


@pytest.mark.parametrize(("option", "package"), [("wandb", "wandb"), ("mlflow", "mlflow"), ("mlflow", "alembic")])
def test_missing_package_is_named_with_what_installs_it(here, overrides, tmp_path, monkeypatch, option, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a))
    extra = re.escape(f"pip install -c constraints.txt 'lightning-coba[{option}]'")
    with pytest.raises(Exception, match=f"`logger={option}` needs the package {package}. Type: {extra}"):
        here(tmp_path / "run", *overrides, f"logger={option}", "model.model=nowhere")  # said before it is looked for
    assert not (tmp_path / "run").exists()


def test_names_and_places_come_from_the_run(here, overrides, tmp_path, monkeypatch):
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    wandb = here(tmp_path, *overrides, "logger=wandb", only_compose=True).logger
    assert wandb.wandb.project == "powers"
    assert wandb.csv.save_dir == wandb.wandb.save_dir == str(tmp_path)
    assert not wandb.wandb.offline
    mlflow = here(tmp_path, *overrides, "logger=mlflow", only_compose=True).logger
    assert (mlflow.mlflow.experiment, mlflow.mlflow.tracking_uri) == ("powers", "sqlite:///mlflow.db")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert here(tmp_path, *overrides, "logger=wandb", only_compose=True).logger.wandb.project == "mine"
    assert here(tmp_path, *overrides, "logger=mlflow", only_compose=True).logger.mlflow.tracking_uri == "http://server"


@pytest.mark.parametrize(("option", "argument"), [("wandb", "name"), ("mlflow", "run_name")])
def test_a_tracker_names_a_run_after_its_folder_and_a_phase_after_both(
    here, overrides, tmp_path, monkeypatch, option, argument
):
    kind = WandbLogger if option == "wandb" else MLFlowLogger
    names = []
    monkeypatch.setattr(kind, "__init__", lambda self, **options: names.append(options[argument]))
    for phases in ([], ["+phases={search: {}, retrain: {}}"]):
        config = here(tmp_path / "my-run", *overrides, f"logger={option}", *phases, only_compose=True)
        for fit in fits_of(config):
            instantiate(fit.settings["logger"][option])
    assert names == ["my-run", "my-run/search", "my-run/retrain"]


def test_the_phase_stays_in_a_name_that_is_too_long(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(WandbLogger, "__init__", lambda self, **options: names.append(options["name"]))
    loggers.RunWandb(tmp_path / ("x" * 200) / "search", "project", phase="search")
    assert names == ["x" * 121 + "/search"]
