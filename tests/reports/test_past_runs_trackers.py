"""Validation losses from files that TensorBoard and MLflow wrote themselves."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from lightning_coba.reports import read_losses

LOSSES = {50: {"code": 2.0, "qa": 3.0}, 100: {"code": 1.5, "qa": 2.5}, 150: {"code": 1.25, "qa": 2.75}}


def check(table):
    assert table.tasks == ["code", "qa"]
    assert table.steps.tolist() == list(LOSSES)
    np.testing.assert_array_equal(table.losses, [list(row.values()) for row in LOSSES.values()])


def write_events(folder, name="val_loss/{task}", **options):
    with SummaryWriter(folder) as writer:
        for step, losses in LOSSES.items():
            writer.add_scalar("train_loss/code", 9.0, step)
            for task, loss in losses.items():
                writer.add_scalar(name.format(task=task), loss, step, **options)


@pytest.mark.parametrize("options", [{}, {"new_style": True}, {"new_style": True, "double_precision": True}])
def test_event_files(tmp_path, options):
    write_events(tmp_path, **options)
    check(read_losses(tmp_path))
    check(read_losses(next(tmp_path.glob("*tfevents*"))))


def test_event_files_below_are_found(tmp_path):
    write_events(tmp_path / "lightning_logs" / "version_0")
    table = read_losses(tmp_path)
    check(table)
    assert "Run: lightning_logs/version_0." in table.notes


def test_several_versions_are_a_choice(tmp_path):
    for version in ("version_0", "version_1"):
        write_events(tmp_path / version)
    with pytest.raises(ValueError, match=r"2 runs: 'version_0', 'version_1'. Choose one: --run 'version_0'"):
        read_losses(tmp_path)
    check(read_losses(tmp_path, run="version_1"))


def test_a_run_without_losses_is_no_choice(tmp_path):
    write_events(tmp_path / "run")
    with SummaryWriter(tmp_path / "profile") as writer:
        writer.add_scalar("seconds", 1.0, 1)
    check(read_losses(tmp_path))


def test_a_resumed_run_has_two_files(tmp_path):
    write_events(tmp_path)
    with SummaryWriter(tmp_path, filename_suffix=".resumed") as writer:
        for task in ("code", "qa"):
            writer.add_scalar(f"val_loss/{task}", 0.5, 200)
    table = read_losses(tmp_path)
    assert table.steps.tolist() == [50, 100, 150, 200]
    assert table.losses[-1].tolist() == [0.5, 0.5]


def test_add_scalars_makes_a_folder_a_task(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step, losses in LOSSES.items():
            writer.add_scalars("val_loss", losses, step)
    check(read_losses(tmp_path))


def test_other_names_need_a_pattern(tmp_path):
    write_events(tmp_path, "held/{task}")
    with pytest.raises(ValueError, match="held/code, held/qa"):
        read_losses(tmp_path)
    check(read_losses(tmp_path, pattern="held/{task}"))


# ---------------------------------------------------------------- MLflow

# mlflow 3.17 calls what sqlalchemy 2.1 deprecates.
of_a_database = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture
def log_to(monkeypatch):
    """Return a function that logs runs as a user does, to a store that is given as an address."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # it is deprecated, and what most old runs are in

    def log(address, names=("first",)):
        client = mlflow.MlflowClient(address)
        experiment = client.create_experiment("balance")
        ids = []
        for name in names:
            run = client.create_run(experiment, run_name=name)
            ids.append(run.info.run_id)
            for step, losses in LOSSES.items():
                client.log_metric(ids[-1], "train_loss", 9.0, step=step)
                for task, loss in losses.items():
                    client.log_metric(ids[-1], f"val_loss/{task}", loss, step=step)
            client.set_terminated(ids[-1])
        return experiment, ids

    return log


def test_the_folder_of_mlflow(tmp_path, log_to):
    experiment, (run,) = log_to((tmp_path / "mlruns").as_uri())
    for folder in (tmp_path / "mlruns", tmp_path / "mlruns" / experiment, tmp_path / "mlruns" / experiment / run):
        check(read_losses(folder))


def test_several_runs_of_mlflow_are_a_choice(tmp_path, log_to):
    _, runs = log_to((tmp_path / "mlruns").as_uri(), ["first", "second"])
    with pytest.raises(ValueError, match="2 runs") as error:
        read_losses(tmp_path / "mlruns")
    assert all(run in str(error.value) for run in runs)
    check(read_losses(tmp_path / "mlruns", run=runs[1]))


@of_a_database
def test_the_database_of_mlflow(tmp_path, database):
    file = tmp_path / "mlflow.db"
    file.write_bytes(database(1).read_bytes())
    check(read_losses(file))


@of_a_database
def test_several_runs_in_a_database_are_a_choice(database):
    with pytest.raises(ValueError, match=r"2 runs: 'first \("):
        read_losses(database(2))
    check(read_losses(database(2), run="second"))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Return a database with so many runs, made once: its tables take MLflow seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.create_experiment("balance", artifact_location=str(folder))
    made = {}
    for number, name in enumerate(("first", "second"), 1):
        run = client.create_run(experiment, run_name=name)
        for step, losses in LOSSES.items():
            for task, loss in losses.items():
                client.log_metric(run.info.run_id, f"val_loss/{task}", loss, step=step)
        made[number] = folder / f"{number}.db"
        made[number].write_bytes(Path(folder, "mlflow.db").read_bytes())
    return made.__getitem__


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database", encoding="utf-8")
    with pytest.raises(ValueError, match="must be a database of MLflow"):
        read_losses(tmp_path / "mlflow.db")
