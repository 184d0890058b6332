"""`coba-evaluate` on a run that `coba-train` left: what it prints and writes, and that it survives being killed."""

import json
import os
import signal
import time
from multiprocessing import get_context

import pytest

from lightning_coba.cli.evaluate import main


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return {"folder": tmp_path_factory.mktemp("evaluated")}


@pytest.fixture
def run(shared, here, overrides, monkeypatch):
    """The folder of one finished run, trained once with generation metrics in its validation passes."""
    monkeypatch.chdir(shared["folder"])
    if "run" not in shared:
        here(
            shared["folder"] / "runs" / "powers", *overrides, "callbacks=generation", "callbacks.generation.rows=3",
            "callbacks.generation.max_new_tokens=8", "data.test_rows=null",
        )  # fmt: skip
        shared["run"] = shared["folder"] / "runs" / "powers"
    return shared["run"]


def test_a_run_is_evaluated_with_its_base(run, capsys):
    capsys.readouterr()
    main([str(run), "--base", "--max-new-tokens", "8", "--metric", "cubes=chrf,exact_match", "--rows", "3"])
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("TEST split", "cubes", "squares", "exact_match", "change", "samples.html"):
        assert words in printed
    card = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert list(card["tasks"]["cubes"]["metrics"]) == ["chrf", "exact_match"]
    assert card["tasks"]["cubes"]["rows"] == 3
    assert card["settings"]["checkpoint"] == "final"
    written = {str(path.relative_to(run / "evaluation")) for path in (run / "evaluation").rglob("*.*")}
    assert {"metrics.csv", "samples.html", "predictions/cubes.jsonl", "predictions/base/squares.jsonl"} <= written


def test_training_logged_the_metrics_of_its_validation(run):
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val_chrf/cubes", "val_loss/cubes"} <= set(header)


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_checkpoints_and_validation_have_numbers_of_their_own(run, checkpoint, capsys):
    arguments = ["--checkpoint", checkpoint, "--split", "validation", "--max-new-tokens", "4", "--tasks", "squares"]
    main([str(run), *arguments])
    assert "VALIDATION" in capsys.readouterr().out
    card = json.loads((run / "evaluation-validation" / "metrics.json").read_text())
    assert (card["settings"]["checkpoint"], list(card["tasks"])) == (checkpoint, ["squares"])


def test_a_killed_evaluation_goes_on_and_finds_the_same(run, tmp_path):
    def command(out):
        return [str(run), "--out", str(tmp_path / out), "--batch-tokens", "40", "--max-new-tokens", "16"]

    # Forked: a process of its own, which has imported everything already.
    process = get_context("fork").Process(target=main, args=(command("killed"),))
    process.start()
    file = tmp_path / "killed" / "predictions" / "cubes.jsonl"
    while not (file.is_file() and b"\n" in file.read_bytes()):
        assert process.is_alive()
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    first = file.read_bytes().split(b"\n")[0]
    for out in ("killed", "whole"):
        main(command(out))
    assert file.read_bytes().startswith(first)
    found = [json.loads((tmp_path / out / "metrics.json").read_text())["tasks"] for out in ("killed", "whole")]
    for task in ("cubes", "squares"):
        assert found[0][task]["metrics"] == found[1][task]["metrics"]
        lines = [(tmp_path / out / "predictions" / f"{task}.jsonl").read_text() for out in ("killed", "whole")]
        assert sorted(lines[0].splitlines()) == sorted(lines[1].splitlines())
        assert lines[0].count("\n") == 4


def test_nothing_is_generated_again_for_other_metrics(run, tmp_path, monkeypatch, capsys):
    arguments = [str(run), "--out", str(tmp_path), "--max-new-tokens", "4"]
    main(arguments)
    from lightning_coba.runs.trained_run import TrainedRun

    monkeypatch.setattr(TrainedRun, "load_model", lambda *_: pytest.fail("the model was loaded"))
    main([*arguments, "--metric", "cubes=exact_match"])
    assert list(json.loads((tmp_path / "metrics.json").read_text())["tasks"]["cubes"]["metrics"]) == ["exact_match"]
    with pytest.raises(pytest.fail.Exception):
        main([*arguments, "--fresh"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "nope"], "`evaluate.tasks` must name tasks of the run (cubes, squares); got nope"),
        (["--metric", "cubes=best"], "must be among accuracy"),
        (["--metric", "cubes"], "must be TASK=METRIC"),
        (["--k", "3"], "must be from 1 to the number of samples"),
        (["--rows", "0"], "`evaluate.rows` must be at least 1"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_answered_in_plain_words(run, capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        main([str(run), *arguments])
    assert end.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_is_no_run(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "has no run.json" in capsys.readouterr().err


def test_help_is_something_to_act_on(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for words in ("coba-evaluate runs/", "--base", "--run-code", "metrics.csv", "samples.html", "predictions/"):
        assert words in text
