"""Validation losses of our own run folders, and what is said about a path that is nothing of the kind."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml

from lightning_coba.balancers import CoBa, replay
from lightning_coba.log_keys import BALANCE_COLUMNS
from lightning_coba.loggers import MetricsCSV
from lightning_coba.reports import LossTable, read_losses
from lightning_coba.reports.replay.replaying import replay_settings

TASKS = ["code", "qa"]
INITIAL = np.array([2.5, 4.0])
LOSSES = np.array([[2.0, 3.0], [1.5, 2.5], [1.25, 2.75], [1.0, 3.0]])
COBA = {"_target_": "lightning_coba.ConvergenceBalancer", "window_records": None, "warmup_records": 2}


def inner(name, **fields):
    return {
        "_target_": "lightning_coba.TaskBalancing",
        "balancer": {"_target_": f"lightning_coba.balancers.{name}", **fields},
    }


def write_run(folder, settings, scores_from=3, **card):
    """Write a run folder whose balance.csv holds LOSSES, and whose metrics.csv holds 10 more of each."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format_version": 2, "tasks": TASKS} | card), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump({"balancer": settings}), encoding="utf-8")
    with (folder / "balance.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, BALANCE_COLUMNS)
        writer.writeheader()
        for t, row in enumerate(LOSSES, 1):
            for k, task in enumerate(TASKS):
                shared = {"record": t, "step": 50 * t, "task": task, "loss": row[k], "ratio": row[k] / INITIAL[k]}
                writer.writerow(shared | {"weight": 0.5} | ({"rcs": 0.5} if t >= scores_from else {}))
    logger = MetricsCSV(folder)
    for t, row in enumerate(LOSSES, 1):
        logger.log_metrics({f"val_loss/{task}": 10 + row[k] for k, task in enumerate(TASKS)}, 50 * t - 1)
        logger.log_metrics({"val_loss": 1.0, "val_loss/extra": 1.0}, 50 * t - 1)
    logger.save()
    return folder


def test_the_records_of_a_run_and_what_was_measured_before_training(tmp_path):
    run = write_run(tmp_path / "run", COBA)
    for path in (run, run / "balance.csv"):
        table = read_losses(path)
        assert (table.tasks, table.steps.tolist()) == (TASKS, [50, 100, 150, 200])
        np.testing.assert_array_equal(table.losses, LOSSES)
        np.testing.assert_allclose(table.initial, INITIAL, rtol=1e-15)
        assert table.is_measured
        assert table.balancer == CoBa(warmup_records=2)


@pytest.mark.parametrize(("method", "records"), [("FAMO", "training"), ("Uniform", "validation"), ("RLW", None)])
def test_records_of_training_losses_are_not_taken_for_validation_losses(tmp_path, method, records):
    table = read_losses(write_run(tmp_path / "run", inner(method), method=method, records=records))
    np.testing.assert_array_equal(table.losses, LOSSES + 10 if records == "training" else LOSSES)
    assert table.tasks == TASKS  # val_loss/extra is no task of the run
    assert table.steps.tolist() == [50, 100, 150, 200]
    assert table.balancer is None
    assert any(method in note for note in table.notes)


def test_a_pattern_reads_the_metrics_of_a_run(tmp_path):
    run = write_run(tmp_path / "run", COBA)
    (run / "events.out.tfevents.0").touch()
    np.testing.assert_array_equal(read_losses(run, TASKS, "val_loss/{task}").losses, LOSSES + 10)


def test_metrics_of_a_run_may_be_asked_for(tmp_path):
    run = write_run(tmp_path / "run", COBA)
    np.testing.assert_array_equal(read_losses(run / "metrics.csv").losses, LOSSES + 10)
    np.testing.assert_array_equal(read_losses(run, tasks=["qa"]).losses, LOSSES[:, 1:])
    with pytest.raises(ValueError, match=r"has no math. The tasks are: code, qa"):
        read_losses(run, tasks=["math"])


def test_a_run_that_has_validated_nothing_yet(tmp_path):
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="Wait for the run's first validation pass"):
        read_losses(tmp_path)


@pytest.mark.parametrize(
    ("settings", "scores_from", "expected"),
    [
        (COBA | {"window_records": 4, "temperature": 2.0}, 3, CoBa(4, 2, 2.0)),
        ({"_target_": COBA["_target_"], "every_n_steps": 1}, 3, CoBa(15, 3)),
        ({"_target_": COBA["_target_"], "max_overhead": 0.03}, 4, CoBa(20, 4)),
        ({"_target_": COBA["_target_"], "every_n_steps": 1, "form": "mftcoder"}, 3, CoBa(20, 4, form="mftcoder")),
        ({"_target_": COBA["_target_"], "every_n_steps": 1}, 99, None),  # still in its warm-up
        (COBA | {"every_n_steps": 1}, 3, None),  # 5 passes of a length that nothing tells
    ],
)
def test_the_settings_that_a_run_had(tmp_path, settings, scores_from, expected):
    assert read_losses(write_run(tmp_path / "run", settings, scores_from)).balancer == expected


def test_a_real_run_replays_to_its_own_weights(finished_run):
    table = read_losses(finished_run)
    assert table.balancer is not None
    (result,) = replay_settings(table, table.balancer).values()
    np.testing.assert_allclose(result.weight, table.weights, atol=1e-12)
    expected = replay(table.balancer, table.losses, initial=table.initial)
    torch.testing.assert_close(torch.from_numpy(result.weight), expected, rtol=0, atol=0)


# ---------------------------------------------------------------- the table itself


def test_given_losses_before_training_replace_the_first_record():
    table = LossTable(TASKS, [1, 2], [[2.0, np.nan], [1.0, 4.0]])
    assert table.first_losses.tolist() == [2.0, 4.0]
    assert not table.is_measured
    given = table.with_initial("qa=8").with_initial({"code": 4.0})
    assert given.is_measured
    np.testing.assert_array_equal(given.ratios, [[0.5, np.nan], [0.25, 0.5]])


@pytest.mark.parametrize("text", ["math=1", "code=0", "code=nan", "code", "code=x"])
def test_a_given_loss_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="`initial` must"):
        LossTable(TASKS, [1], [[2.0, 1.0]]).with_initial(text)


@pytest.mark.parametrize(
    ("steps", "losses", "initial"), [([], np.empty((0, 2)), None), ([1], [[1.0]], None), ([1], [[1.0, 2.0]], [1.0])]
)
def test_shapes_that_disagree_are_refused(steps, losses, initial):
    with pytest.raises(ValueError, match="`LossTable"):
        LossTable(TASKS, steps, losses, initial=initial)


# ---------------------------------------------------------------- paths


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        read_losses(tmp_path / "typo")


def test_a_folder_of_several_runs_lists_them(tmp_path):
    for name in ("one", "two"):
        write_run(tmp_path / name, COBA)
    with pytest.raises(ValueError, match="holds 2 runs of coba-train") as error:
        read_losses(tmp_path)
    assert all(str(tmp_path / name) in str(error.value) for name in ("one", "two"))


def test_a_folder_of_tables_lists_them(tmp_path):
    (tmp_path / "a.csv").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match=r"Give one of these: .*a\.csv"):
        read_losses(tmp_path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="no file of a kind that is read"):
        read_losses(tmp_path)


def test_the_csv_of_lightnings_own_logger(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,val_loss/a,val_loss/b\n0,9,1.0,2.0\n", encoding="utf-8")
    assert read_losses(tmp_path).steps.tolist() == [9]


def test_an_unsynced_run_of_wandb_says_how_to_export(tmp_path):
    folder = tmp_path / "wandb" / "offline-run-20260101_000000-ab12cd"
    folder.mkdir(parents=True)
    (folder / "run-ab12cd.wandb").write_bytes(b":W&B")
    for path in (tmp_path / "wandb", folder, folder / "run-ab12cd.wandb"):
        with pytest.raises(ValueError, match=r"Type `wandb sync .*offline-run.*history\.csv"):
            read_losses(path)
