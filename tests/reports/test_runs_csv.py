import csv

from written_runs import result

from lightning_coba.reports.comparison.runs_csv import write_runs_csv
from lightning_coba.runs import read_run

LOSS = {"a": 1.5, "b": 0.1 + 0.2}
TODAY = [
    "suite", "system", "method", "label", "seed", "status", "task", "test_loss_before", "test_loss_after",
    "test_token_accuracy", "best_step", "steps", "val_loss", "seconds_per_step", "validation_seconds", "error",
    "folder",
]  # fmt: skip


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_table_of_runs_reads_back_to_the_bit(tmp_path, write_run):
    accuracy = {"test_token_accuracy": {"a": 1 / 3}}
    runs = [read_run(write_run("CoBa", 1, LOSS, seconds=0.1, others=accuracy)), read_run(write_run("FAMO", 2, LOSS))]
    runs.append(read_run(write_run("FAMO", 3, LOSS, card={"status": "failed", "error": 'a "quoted", error'})))
    write_runs_csv(tmp_path / "runs.csv", runs, {runs[0].folder: "CoBa (temperature=5.0)"})
    rows = table(tmp_path / "runs.csv")
    assert list(rows[0]) == TODAY
    assert [(row["method"], row["task"]) for row in rows] == [(r.method, t) for r in runs for t in ("a", "b")]
    assert [float(row["test_loss_after"]) for row in rows] == [*LOSS.values()] * 3
    assert [row["test_token_accuracy"] for row in rows] == [repr(1 / 3), "", "", "", "", ""]
    assert rows[0]["label"] == "CoBa (temperature=5.0)"
    assert [row["seconds_per_step"] for row in rows[::2]] == ["0.1", "", ""]
    assert rows[4]["error"] == 'a "quoted", error'
    assert runs[0].objective.value == float(rows[0]["val_loss"])


def test_a_part_that_is_no_task_has_a_row(tmp_path, write_run):
    card = {"system": "toy", "tasks": ["a"], "results_before": {}}
    card["results"] = {"rate": result({"clean": 0.9, "attacked": 0.5}), "f1": result({"a": 0.25})}
    write_runs_csv(tmp_path / "runs.csv", [read_run(write_run("Toy", 1, {}, card=card))], {})
    rows = [(row["task"], row["rate_after"], row["f1"]) for row in table(tmp_path / "runs.csv")]
    assert rows == [("a", "", "0.25"), ("clean", "0.9", ""), ("attacked", "0.5", "")]


def test_each_system_has_columns_of_its_own_results(tmp_path, write_run):
    card = {"system": "toy", "tasks": [], "results": {"test_r2": result({"all": 0.5}, "max")}, "results_before": {}}
    card["objective"] = {"key": "val_r2", "better": "max", "value": 0.0}
    runs = [read_run(write_run("Toy", 1, {}, card=card)), read_run(write_run("CoBa", 1, LOSS))]
    write_runs_csv(tmp_path / "runs.csv", runs, {})
    toy, *multitask = table(tmp_path / "runs.csv")
    assert [toy[key] for key in ("task", "test_r2_before", "test_r2_after", "val_r2")] == ["all", "", "0.5", "0"]
    assert (toy["test_loss_after"], toy["val_loss"]) == ("", "")
    assert {row["test_r2_after"] for row in multitask} == {""}
