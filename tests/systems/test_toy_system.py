"""A second system, of two phases: all that `coba-train` does for one, without a line of the package changed for it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_coba.errors import DivergedError

TOY = Path(__file__).parents[1] / "toy_system"
SHORT = [
    "system=toy",
    "trainer.max_epochs=3",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "logger=csv",
]


@pytest.fixture
def toy(here, monkeypatch):
    """Run `coba-train` with the toy system in this process: a function of a folder and overrides."""
    monkeypatch.syspath_prepend(str(TOY))
    return lambda folder, *arguments: here(folder, f"hydra.searchpath=[file://{TOY / 'conf'}]", *SHORT, *arguments)


def coba(cwd, verb, *arguments, code=0):
    environment = {k: v for k, v in os.environ.items() if k != "PL_GLOBAL_SEED"} | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TOY), *filter(None, [os.environ.get("PYTHONPATH")])])
    line = [sys.executable, "-m", f"lightning_coba.cli.{verb}", *map(str, arguments)]
    done = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def trained(folder):
    """What two runs must have in common to the last bit: the numbers, the weights, and all that was logged."""
    card = json.loads((folder / "run.json").read_text())
    kept = {}
    for phase in ("search", "retrain"):
        kept[phase] = (folder / phase / "metrics.csv").read_bytes()
        last = torch.load(folder / phase / "checkpoints" / "last.ckpt", weights_only=True)
        kept |= {f"{phase}/{name}": value.tolist() for name, value in last["state_dict"].items()}
        kept[f"{phase}/results"] = card["phases"][phase]["results"], card["phases"][phase]["objective"]
    return kept | {"balance": (folder / "search" / "balance.csv").read_bytes()}


def test_every_phase_leaves_its_folder_and_the_run_its_card_figures_and_page(toy, tmp_path):
    minimised = toy(tmp_path)
    card = json.loads((tmp_path / "run.json").read_text())
    assert (card["status"], card["system"], card["method"], card["kept"]) == (
        "finished",
        "toy",
        "toy",
        ["height", "age"],
    )
    assert {name: phase["status"] for name, phase in card["phases"].items()} == {
        "search": "finished", "retrain": "finished",
    }  # fmt: skip
    assert card["results"] == card["phases"]["retrain"]["results"]
    assert card["results"]["test_explained"]["better"] == "max"
    assert card["objective"]["key"] == "val_explained"
    assert minimised == -card["objective"]["value"]  # a sweep minimises
    assert card["objective"]["value"] > 0.8
    search, retrain = tmp_path / "search", tmp_path / "retrain"
    assert (search / "balance.csv").read_text().startswith("record,step,feature,gradient,weight\n")
    assert (search / "figures" / "weights.png").stat().st_size > 5000
    assert (retrain / "figures" / "line.png").stat().st_size > 1000
    assert torch.load(retrain / "model" / "line.pt").keys() == {"weight", "bias"}
    page = (tmp_path / "report.html").read_text()
    assert "retrain" in page
    assert "test_explained" in page


@pytest.mark.parametrize(("phase", "step"), [("search", 8), ("retrain", 4)])
def test_killed_in_either_phase_it_ends_as_if_it_had_not_been(toy, tmp_path, phase, step):
    toy(tmp_path / "whole")
    kill = [f"+callbacks.kill={{_target_: killing.KillAt,phase: {phase},step: {step}}}"]
    arguments = ["--config-dir", TOY / "conf", *SHORT, "name=killed"]
    coba(tmp_path, "train", *arguments, *kill, code=-signal.SIGKILL)
    run = tmp_path / "runs" / "killed"
    card = json.loads((run / "run.json").read_text())
    assert card["phases"][phase]["status"] == "running"
    assert ("retrain" in card["phases"]) == (phase == "retrain")
    coba(tmp_path, "train", *arguments, "resume=auto")
    assert trained(run) == trained(tmp_path / "whole")


@pytest.mark.parametrize("phase", ["search", "retrain"])
def test_a_phase_that_diverges_stops_the_run_and_is_the_one_that_says_so(toy, tmp_path, phase):
    wild = f"+phases.{phase}.optimizer={{_target_: torch.optim.SGD,_partial_: true,lr: 1e30}}"
    with pytest.raises(DivergedError, match="Training diverged"):
        toy(tmp_path, wild)
    card = json.loads((tmp_path / "run.json").read_text())
    assert card["status"] == "diverged"
    statuses = {"search": {"search": "diverged"}, "retrain": {"search": "finished", "retrain": "diverged"}}
    assert {name: entries["status"] for name, entries in card["phases"].items()} == statuses[phase]
    assert card["divergence"] == card["phases"][phase]["divergence"]
    assert "diverged" in (tmp_path / "report.html").read_text()
    with pytest.raises(FileExistsError, match=r"diverged.*name="):
        toy(tmp_path, wild, "resume=auto")


def test_a_search_made_longer_after_its_retraining_is_refused(toy, tmp_path):
    toy(tmp_path)
    before = trained(tmp_path)
    with pytest.raises(ValueError, match=r"`search`.*retrain.*name="):
        toy(tmp_path, "trainer.max_epochs=4", "resume=auto")
    assert trained(tmp_path) == before
    # The last phase may go on.
    toy(tmp_path, "phases.retrain.trainer.max_epochs=3", "resume=auto")
    assert (tmp_path / "search" / "metrics.csv").read_bytes() == before["search"]
    assert len((tmp_path / "retrain" / "metrics.csv").read_bytes()) > len(before["retrain"])


def test_a_search_goes_on_where_the_folder_of_its_retraining_was_deleted(toy, tmp_path):
    toy(tmp_path)
    shutil.rmtree(tmp_path / "retrain")
    toy(tmp_path, "+phases.search.trainer.max_epochs=4", "resume=auto")
    card = json.loads((tmp_path / "run.json").read_text())
    assert {name: phase["timing"]["steps"] for name, phase in card["phases"].items()} == {"search": 20, "retrain": 10}


def test_a_finished_run_returns_its_objective(toy, tmp_path, capsys):
    first = toy(tmp_path)
    assert toy(tmp_path, "resume=auto") == first
    assert "finished" in capsys.readouterr().out


def test_a_sweep_optimises_its_objective_and_the_report_compares_by_its_result(tmp_path):
    arguments = ["--config-dir", TOY / "conf", "-m", *SHORT, "optimizer.lr=0.1,0.01", "seed=1,2"]
    coba(tmp_path, "train", *arguments)
    [sweep] = (tmp_path / "multirun").iterdir()
    assert len(list(sweep.glob("*/run.json"))) == 4
    said = coba(tmp_path, "report", sweep)
    assert "4 runs read" in said
    rows = (tmp_path / "report" / "runs.csv").read_text().splitlines()
    assert "test_explained" in rows[0]
    assert len(rows) == 1 + 4
    label = rows[0].split(",").index("label")
    assert {row.split(",")[label] for row in rows[1:]} == {"toy"}  # where an earlier phase lies is no difference


@pytest.mark.parametrize("command", [["evaluate"], ["export"], ["replay"], ["data", "check"]])
def test_commands_that_serve_another_system_say_so(toy, tmp_path, command):
    toy(tmp_path)
    said = coba(tmp_path, *command, tmp_path, code=2)
    assert "system=multitask" in said
    assert f"system=toy. Its results: coba-report {tmp_path}" in " ".join(said.split())
    assert "Traceback" not in said


def test_an_override_that_no_phase_reads_is_answered_with_the_one_that_it_does(tmp_path):
    own = "{_target_: lightning.Trainer,max_epochs: 1,num_sanity_val_steps: 0,enable_model_summary: false}"
    phases = [f"+phases.search.trainer={own}", "phases.retrain.trainer.max_epochs=1"]
    said = coba(tmp_path, "train", "--config-dir", TOY / "conf", *SHORT, *phases)
    assert "phases.search.trainer.log_every_n_steps=" in said


def test_a_phase_that_is_null_is_left_out(toy, tmp_path):
    toy(tmp_path, "phases.retrain=null")
    card = json.loads((tmp_path / "run.json").read_text())
    assert (card["status"], [*card["phases"]]) == ("finished", ["search"])


@pytest.mark.parametrize(
    ("found", "said"),
    [("modle,search", r"no file 'modle'.*\bmodel\b"), ("model,saerch", r"no phase 'saerch'.*search, retrain")],
)
def test_a_mistyped_file_of_another_phase_is_said_before_anything_is_trained(toy, tmp_path, found, said):
    with pytest.raises(ValueError, match=said):
        toy(tmp_path / "run", f"phases.retrain.system.found='${{run_file:{found}}}'")
    assert not (tmp_path / "run").exists()


def test_an_objective_that_is_never_logged_is_told_from_what_is(toy, tmp_path, monkeypatch):
    import toy as system

    monkeypatch.setattr(system.Search, "objective", lambda self: ("val_nothing", "min"))
    with pytest.raises(ValueError, match=r"`Search.objective`.*'val_nothing'.*val_explained"):
        toy(tmp_path)


def test_a_sweep_over_runs_that_are_there_says_how_to_go_on(tmp_path):
    arguments = ["--config-dir", TOY / "conf", "-m", *SHORT, "seed=1,2"]
    coba(tmp_path, "train", *arguments)
    said = coba(tmp_path, "train", *arguments, code=1)
    assert "2 refused" in said
    assert "resume=auto" in said
    assert "error.txt" not in said
