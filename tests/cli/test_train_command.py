"""`coba-train` from the outside: what a run leaves, what it refuses, and what it says."""

import csv
import json
import re

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_coba.log_keys import BALANCE_COLUMNS
from lightning_coba.simplex import read_balance

pytestmark = pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about")  # of a run this short


def table(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


def test_run_leaves_everything_in_its_folder(command, overrides, finished, data_folder, model_folder):
    printed = command(finished, *overrides)
    run = finished / "runs" / "powers-coba-seed1"
    assert [path.name for path in finished.iterdir()] == ["runs"]
    assert [path.name for path in (finished / "runs").iterdir()] == [run.name]
    assert {path.name for path in run.iterdir()} == {
        "adapter", "balance.csv", "before_after.csv", "checkpoints", "config.yaml", "figures", "metrics.csv",
        "report.html", "run.json", "tokenizer",
    }  # fmt: skip
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["root"] == str(data_folder)
    assert config["data"]["seed"] == config["system"]["seed"] == 1
    assert "${" not in (run / "config.yaml").read_text()

    card = json.loads((run / "run.json").read_text())
    assert (card["format_version"], card["system"]) == (2, "multitask")
    assert {"lightning-coba", "lightning", "torch", "transformers", "peft"} <= card["packages"].keys()
    assert all(card["packages"].values())
    told = {key: card[key] for key in ("status", "name", "tasks", "method", "seed", "suite")}
    assert told == {
        "status": "finished", "name": run.name, "tasks": ["cubes", "squares"], "method": "CoBa", "seed": 1,
        "suite": "powers",
    }  # fmt: skip

    timing = card["timing"]
    assert timing.keys() == {
        "seconds_per_step", "steps", "validation_seconds", "began", "ended", "host", "threads", "load",
    }  # fmt: skip
    assert timing["steps"] == 12
    assert timing["seconds_per_step"] > 0
    assert timing["validation_seconds"] > 0
    assert timing["began"] < timing["ended"]
    assert list(card["results"]) == ["test_loss", "test_token_accuracy", "test_exact_match"]
    assert [result["better"] for result in card["results"].values()] == ["min", "max", "max"]
    for key in ("test_token_accuracy", "test_exact_match"):
        values = card["results"][key]["values"]
        assert values.keys() == {"cubes", "squares"}
        assert all(0 <= value <= 1 for value in values.values())
    assert card["results"]["test_token_accuracy"]["values"]["cubes"] > 0

    # 12 steps, a pass after every second.
    balance = read_balance(run)
    assert (run / "balance.csv").read_text().splitlines()[0] == ",".join(BALANCE_COLUMNS)
    assert balance.tasks == ["cubes", "squares"]
    assert balance.steps.tolist() == [2, 4, 6, 8, 10, 12]
    metrics = table(run / "metrics.csv")
    assert [int(row["step"]) for row in metrics] == list(range(1, 13))
    assert all(row["train_loss"] and row["train_loss/cubes"] for row in metrics)
    assert [row["step"] for row in metrics if row["val_loss"]] == ["2", "4", "6", "8", "10", "12"]
    for record, row in enumerate(row for row in metrics if row["val_loss"]):
        for k, task in enumerate(balance.tasks):
            assert float(row[f"val_loss/{task}"]) == pytest.approx(balance.loss[record, k], rel=1e-6)
            assert float(row[f"balance/weight/{task}"]) == balance.weight[record, k]
    best = min(float(row["val_loss"]) for row in metrics if row["val_loss"])
    assert card["objective"] == {"key": "val_loss", "better": "min", "value": pytest.approx(best)}

    rows = table(run / "before_after.csv")
    assert [row["task"] for row in rows] == ["cubes", "squares", "mean"]
    assert all(float(row["test_loss_after"]) < float(row["test_loss_before"]) for row in rows)
    figures = list((run / "figures").glob("*.png"))
    assert len(figures) == 3
    assert all(figure.stat().st_size > 5000 for figure in figures)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "last.ckpt",
        "previous.ckpt",
        "best.ckpt",
    }

    base = AutoModelForCausalLM.from_pretrained(model_folder)
    before = {name: p.clone() for name, p in base.named_parameters()}
    adapted = PeftModel.from_pretrained(base, run / "adapter")
    kept = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    exported = {name: p for name, p in adapted.named_parameters() if "lora" in name}
    assert len(exported) == len(kept)
    assert all(torch.equal(p, kept[f"model.{name}"]) for name, p in exported.items())
    assert len(before) == len(list(base.parameters())) - len(exported)
    ids = AutoTokenizer.from_pretrained(run / "tokenizer")("12")["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(model_folder)("12")["input_ids"]

    # A log file gets plain lines.
    assert "step 12/" in printed or "step 12 " in printed
    assert re.search(r"validated  val_loss \d+\.\d+  cubes 0\.\d\d. \d\.\d\dx", printed)
    assert "TEST split" in printed
    assert str(run) in printed
    assert "Traceback" not in printed
    assert "Warning" not in printed


def fingerprint(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_name_that_is_taken_is_refused_with_both_ways_out(command, here, overrides, finished):
    run = finished / "runs" / "powers-coba-seed1"
    before = fingerprint(run)
    assert before
    printed = command(finished, *overrides, code=2)
    assert "Traceback" not in printed
    assert "resume=auto" in printed
    assert "name=..." in printed
    assert str(run) in printed
    assert fingerprint(run) == before
    assert here(run, *overrides, "resume=auto") == json.loads((run / "run.json").read_text())["objective"]["value"]
    assert fingerprint(run) == before


def test_finished_run_says_so(here, overrides, finished, capsys):
    run = finished / "runs" / "powers-coba-seed1"
    here(run, *overrides, "resume=auto")
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"`resume` must be false or auto; got 'yes'"):
        here(run, *overrides, "resume='yes'")


def test_help_shows_where_to_start(command, tmp_path):
    printed = command(tmp_path, "--help")
    for words in ("experiment=demo", "data.root=", "resume=auto", "-m balancer=coba,uniform", "runs/NAME"):
        assert words in printed
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ends_before_its_first_validation_pass_is_finished(here, overrides, tmp_path):
    plain = [override for override in overrides if not override.startswith("balancer.")]
    here(tmp_path / "short", *plain, "balancer=uniform", "trainer.max_steps=1")
    card = json.loads((tmp_path / "short" / "run.json").read_text())
    assert card["status"] == "finished"
    assert len((tmp_path / "short" / "balance.csv").read_text().splitlines()) == 1
    assert not (tmp_path / "short" / "figures").exists()
    assert (tmp_path / "short" / "report.html").is_file()


def test_full_fine_tuning_leaves_a_model(here, overrides, tmp_path, model_folder):
    own = [o for o in overrides if not o.startswith(("peft.", "scheduler.", "balancer.", "trainer.max_epochs"))]
    short = ["peft=none", "scheduler=none", "balancer=uniform", "trainer.max_epochs=1", "test_before=false"]
    loss = here(tmp_path / "run", *own, *short)
    assert loss > 0
    assert not (tmp_path / "run" / "adapter").exists()
    assert not (tmp_path / "run" / "before_after.csv").exists()
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").state_dict()
    start = AutoModelForCausalLM.from_pretrained(model_folder).state_dict()
    assert trained.keys() == start.keys()
    assert not torch.equal(trained["model.norm.weight"], start["model.norm.weight"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["method"] == "Uniform"


def test_sweep_has_one_folder_with_a_folder_a_job(command, overrides, tmp_path):
    own = [o for o in overrides if not o.startswith(("balancer.", "trainer.max_epochs"))]
    command(tmp_path, "-m", *own, "trainer.max_epochs=1", "balancer=coba,uniform", "seed=1,2")
    assert [path.name for path in tmp_path.iterdir()] == ["multirun"]
    [sweep] = (tmp_path / "multirun").iterdir()
    assert sweep.name == "powers"
    cards = {}
    for job in sweep.iterdir():
        if job.is_dir():
            cards[job.name] = json.loads((job / "run.json").read_text())
    assert len(cards) == 4
    assert {(card["method"], card["seed"]) for card in cards.values()} == {
        (method, seed) for method in ("CoBa", "Uniform") for seed in (1, 2)
    }
    assert {card["status"] for card in cards.values()} == {"finished"}
