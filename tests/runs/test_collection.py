import csv
import json
import math

import pytest

from lightning_coba.runs import find_runs, read_run
from lightning_coba.runs.collection import write_runs_csv

LOSS = {"a": 1.5, "b": 0.1 + 0.2}


def test_runs_are_found_at_any_depth_each_once_and_not_inside_one_another(tmp_path, write_run):
    first, second = write_run("CoBa", 1, LOSS), write_run("Uniform", 1, LOSS)
    (first / "checkpoints").mkdir()
    (first / "checkpoints" / "run.json").write_text("{}")
    assert find_runs([tmp_path, second, tmp_path / "runs"]) == [first, second]
    assert find_runs([second]) == [second]
    with pytest.raises(FileNotFoundError, match=r"^DIR must be a folder; got .*nowhere"):
        find_runs([tmp_path / "nowhere"])


def test_a_run_is_read_whole(write_run):
    metrics = {"test_metrics": {"accuracy": {"a": 0.5, "b": 0.25}}}
    run = read_run(write_run("CoBa", 3, LOSS, seconds=0.25, card=metrics, best={"a": 20, "b": 40}))
    assert run.is_complete
    assert (run.suite, run.method, run.seed, run.tasks) == ("suite", "CoBa", 3, ["a", "b"])
    assert run.test_after == LOSS
    assert run.test_before == {"a": 3.0, "b": 2 * LOSS["b"]}
    assert run.test_metrics["accuracy"]["b"] == 0.25
    assert (run.steps, run.seconds_per_step, run.validation_seconds) == (40, 0.25, 1.5)
    assert run.settings["balancer.temperature"] == 5.0
    assert list(run.curves["a"]) == [10, 20, 30, 40]  # steps made, where the file counts from 0
    assert (run.best_step("a"), run.best_step("b")) == (20, 40)
    assert math.isnan(run.best_step("other"))


def test_an_older_run_without_times_and_metrics_is_complete(write_run):
    run = read_run(write_run("CoBa", 1, LOSS))
    assert run.is_complete
    assert math.isnan(run.seconds_per_step)
    assert (run.steps, run.test_metrics) == (40, {})


@pytest.mark.parametrize(
    ("card", "why"),
    [
        ({"status": "running"}, "resume=auto"),
        ({"status": "failed", "error": "ValueError: no memory"}, "ValueError: no memory"),
        ({"status": "failed"}, "no reason"),
        ({"test_after": {"a": 1.0, "b": math.nan}}, "no finite test loss for b"),
        ({"test_after": {"a": 1.0}}, "no finite test loss for b"),
        ({"test_after": None}, "no finite test loss for a, b"),
    ],
)
def test_a_run_without_results_says_why(write_run, card, why):
    run = read_run(write_run("CoBa", 1, LOSS, card=card))
    assert not run.is_complete
    assert why in run.error


@pytest.mark.parametrize("content", ["", '{"status": "fin', "[1, 2]", "null", "\x00"])
def test_a_half_written_card_is_a_run_that_cannot_be_read(write_run, content):
    folder = write_run("CoBa", 1, LOSS)
    (folder / "run.json").write_text(content)
    run = read_run(folder)
    assert run.status == "unreadable"
    assert "run.json" in run.error


@pytest.mark.parametrize("card", [{"timing": "fast"}, {"test_metrics": [1]}, {"tasks": "ab"}, {"seed": None}])
def test_a_card_with_strange_entries_is_read_without_them(write_run, card):
    assert read_run(write_run("CoBa", 1, LOSS, card=card)).test_after == LOSS


def test_a_metrics_file_cut_at_any_byte_loses_its_last_line_only(write_run):
    folder = write_run("CoBa", 1, LOSS, best={"a": 30})
    file = folder / "metrics.csv"
    whole = file.read_bytes()
    complete = read_run(folder).curves["a"]
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        curve = read_run(folder).curves.get("a", {})
        assert curve.items() <= complete.items()
        assert len(curve) == sum(whole[:end].count(b"\n") > step for step in complete)


def test_broken_files_beside_the_card_cost_nothing_else(write_run):
    folder = write_run("CoBa", 1, LOSS)
    (folder / "config.yaml").write_text("a: [1,")
    (folder / "metrics.csv").write_bytes(b"step,val_loss/a\n0,\xff\xfe\n1,2,3\nx,1\n9,oops\n")
    run = read_run(folder)
    assert run.is_complete
    assert run.settings is None
    assert math.isnan(run.best_step("a"))


def test_the_table_of_runs_reads_back_to_the_bit(tmp_path, write_run):
    metrics = {"test_metrics": {"accuracy": {"a": 1 / 3}}}
    runs = [read_run(write_run("CoBa", 1, LOSS, seconds=0.1, card=metrics)), read_run(write_run("FAMO", 2, LOSS))]
    runs.append(read_run(write_run("FAMO", 3, LOSS, card={"status": "failed", "error": 'a "quoted", error'})))
    write_runs_csv(tmp_path / "runs.csv", runs, {runs[0].folder: "CoBa (temperature=5.0)"})
    with (tmp_path / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["method"], row["task"]) for row in rows] == [(r.method, t) for r in runs for t in ("a", "b")]
    assert [float(row["test_loss_after"]) for row in rows] == [*LOSS.values()] * 3
    assert [row["test_accuracy"] for row in rows] == [repr(1 / 3), "", "", "", "", ""]
    assert rows[0]["label"] == "CoBa (temperature=5.0)"
    assert [row["seconds_per_step"] for row in rows[::2]] == ["0.1", "", ""]
    assert rows[4]["error"] == 'a "quoted", error'
    assert json.loads((runs[0].folder / "run.json").read_text())["val_loss"] == float(rows[0]["val_loss"])
