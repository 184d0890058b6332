"""Images of the curves: in every logger that shows images, at their steps, and without any effect on the training."""

import lightning as L
import numpy as np
import pytest
import torch
from foreign import QUIET, SHORT_RUNS, Foreign, fit, parameters, train_loader, val_loader
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_coba import ConvergenceBalancer
from lightning_coba.callbacks import TrajectoryImages
from lightning_coba.loggers import RunMLflow, RunTensorBoard, RunWandb
from lightning_coba.loggers.wandb import finish_wandb

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}


def images_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    found = {tag: [(image.step, image.width) for image in events.Images(tag)] for tag in events.Tags()["images"]}
    return found, {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_nth_pass_and_the_end_are_drawn_at_the_steps_of_the_scalars(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit(Foreign(), ConvergenceBalancer(**COBA), TrajectoryImages(2), logger=logger, max_epochs=3, log_every_n_steps=1)
    images, scalars = images_of(tmp_path)
    assert images.keys() == {"balance/loss_ratios", "balance/weights"}
    passes = scalars["balance/weight/a"]
    assert len(passes) == 3
    for drawn in images.values():
        assert [step for step, _ in drawn] == passes[1:]
        assert all(width > 800 for _, width in drawn)


def test_training_is_the_same_to_the_last_bit(tmp_path):
    ends = []
    for callbacks in ([], [TrajectoryImages(1)]):
        torch.manual_seed(3)
        logger = TensorBoardLogger(tmp_path, name=str(len(callbacks)), version="")
        module = Foreign(dropout=0.3)
        fit(module, ConvergenceBalancer(**COBA), *callbacks, logger=logger, max_epochs=2, log_every_n_steps=1)
        ends.append((parameters(module), torch.rand(3)))
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


def test_nothing_is_drawn_where_nothing_would_show_it(tmp_path, monkeypatch):
    from lightning_coba.simplex import figures

    monkeypatch.setattr(figures, "weights_figure", lambda *a: 1 / 0)
    fit(Foreign(), ConvergenceBalancer(**COBA), TrajectoryImages(1), max_epochs=1)
    fit(
        Foreign(),
        ConvergenceBalancer(**COBA),
        TrajectoryImages(1),
        logger=CSVLogger(tmp_path),
        max_epochs=1,
        log_every_n_steps=1,
    )
    fit(Foreign(steers=False), TrajectoryImages(1), logger=RunTensorBoard(tmp_path), max_epochs=1, log_every_n_steps=1)
    with pytest.raises(ZeroDivisionError):
        fit(
            Foreign(),
            ConvergenceBalancer(**COBA),
            TrajectoryImages(1),
            logger=RunTensorBoard(tmp_path),
            max_epochs=1,
            log_every_n_steps=1,
        )


def test_number_of_passes_must_be_positive():
    with pytest.raises(ValueError, match=r"`TrajectoryImages.every_n_validations` must be >= 1; got 0"):
        TrajectoryImages(0)


# ------------------------------------------------------------------ W&B and MLflow, as real as they are offline


def trained(logger, folder):
    """Fit one epoch and then one more, as a resumed run does; return what the second logger is."""
    checkpoint = folder / "last.ckpt"
    for epochs in (1, 2):
        run = logger()
        callbacks = [ConvergenceBalancer(**COBA), TrajectoryImages(1)]
        trainer = L.Trainer(
            **QUIET | {"logger": run, "max_epochs": epochs},
            callbacks=callbacks,
            log_every_n_steps=1,
        )
        run.log_hyperparams({"optimizer.lr": 0.05, "trainer.max_epochs": epochs})
        trainer.fit(Foreign(), train_loader(), val_loader(), ckpt_path=checkpoint if epochs == 2 else None)
        if epochs == 1:
            trainer.save_checkpoint(checkpoint)
            finish_wandb(0)
    return run


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_mlflow_goes_on_in_the_same_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine"
    logger = trained(lambda: RunMLflow(folder, "suite", "sqlite:///mlflow.db"), tmp_path)
    client = logger.experiment
    (run,) = client.search_runs([logger.experiment_id])
    assert run.info.run_name == "mine"
    assert run.info.status == "FINISHED"
    assert (folder / "mlflow_run_id").read_text().strip() == run.info.run_id
    assert run.data.params == {"optimizer.lr": "0.05", "trainer.max_epochs": "1"}  # MLflow lets none be changed
    assert {"val_loss/a", "balance/weight/a", "balance/weight_change"} <= run.data.metrics.keys()
    history = [metric.step for metric in client.get_metric_history(run.info.run_id, "balance/weight/a")]
    assert history == [6, 12]
    images = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "images")]
    assert sum("weights" in path and path.endswith(".png") for path in images) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_wandb_goes_on_in_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "mine"
    logger = trained(lambda: RunWandb(folder, "my/suite", offline=True), tmp_path)
    run = logger.experiment
    assert run.project == "my-suite"
    assert run.name == "mine"
    assert run.id == (folder / "wandb_run_id").read_text().strip()
    files = folder / "wandb" / "latest-run" / "files"
    summary = dict(run.summary)
    assert dict(run.config) == {"optimizer.lr": 0.05, "trainer.max_epochs": 2}
    finish_wandb(0)
    assert {"val_loss/a", "balance/weight/a", "balance/weights", "balance/loss_ratios"} <= summary.keys()
    assert summary["trainer/global_step"] == 12
    attempts = sorted(path.name for path in (folder / "wandb").glob("offline-run-*"))
    assert len(attempts) == 2
    assert all(name.endswith(run.id) for name in attempts)
    images = list((files / "media" / "images" / "balance").glob("weights_*.png"))
    assert images
    import wandb

    assert wandb.run is None


def test_an_image_has_the_colours_of_the_figure(tmp_path):
    from matplotlib.figure import Figure

    from lightning_coba.loggers.images import _pixels

    pixels = _pixels(Figure(figsize=(2, 1), dpi=50, facecolor="#ff8000"))
    assert pixels.shape == (50, 100, 3)
    assert np.array_equal(np.unique(pixels.reshape(-1, 3), axis=0), [[255, 128, 0]])
