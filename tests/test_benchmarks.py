"""The benchmarks run, on inputs of a size that tells nothing about speed, and write what they promise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run(tmp_path):
    """Return a function: benchmark, arguments -> its result file."""

    def run(name, *arguments):
        out = tmp_path / "result.json"
        done = subprocess.run(
            [sys.executable, BENCHMARKS / f"{name}.py", "--repetitions", "2", "--out", out, *map(str, arguments)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert out.is_file(), done.stderr
        result = json.loads(out.read_text())
        assert result["benchmark"] == name
        assert done.returncode == (0 if all(check["passed"] for check in result["checks"]) else 1)
        return result

    return run


@pytest.fixture
def tiny_model(tmp_path, tokenizer, monkeypatch):
    """Return a folder with a random model and its tokenizer, and keep what is made of them out of the user's cache."""
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path / "cache"))
    config = LlamaConfig(vocab_size=257, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=1, num_key_value_heads=1, eos_token_id=256)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path):
    """Return a folder of two tasks."""
    for task, count in {"long": 30, "short": 50}.items():
        (tmp_path / "data" / task).mkdir(parents=True)
        rows = [{"prompt": f"{task} {i}:", "completion": "abc" * (i % 7 + 1)} for i in range(count)]
        (tmp_path / "data" / task / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "data"


def test_planner_and_what_a_result_holds(run):
    result = run("planner", "--rows", 2000, "--tasks", 3, "--seed", 7)
    assert len(result["checks"]) == 9
    assert all(len(check["samples"]) == 2 for check in result["checks"])
    assert set(result["costs"]) == {"grouped", "packed", "random"}
    assert result["arguments"] == {"seed": 7, "repetitions": 2, "rows": 2000, "tasks": 3, "max_length": 1024}
    assert result["machine"].keys() == {"cpu", "cores", "flags", "system", "python", "packages", "threads", "load"}
    assert result["machine"]["threads"] == 1
    assert result["machine"]["packages"]["torch"] == torch.__version__
    assert {"date", "commit"} <= result.keys()


def test_useful_tokens(run, tiny_model, data):
    result = run("useful_tokens", "--model", tiny_model, "--data", data, "--batch-size", 4, "--max-length", 64)
    shares = {name: max(values) for name, values in result["costs"].items()}
    assert shares.keys() == {"random", "grouped", "packed"}
    assert 0 < shares["random"] < shares["grouped"] <= 1


def test_logging_cost(run):
    result = run("logging_cost", "--tasks", 3, "--steps", 4, "--log-every", 2)
    assert result["costs"].keys() == {"ours", "plain Lightning", "a log call a task"}
    assert [check["unit"] for check in result["checks"]] == ["ms"]


def test_update(run):
    result = run("update", "--tasks", 4, "--also", 2, "--records", 30, "--updates", 3, "--window", 9, "--warmup", 4)
    assert result["costs"].keys() == {"4 tasks", "2 tasks"}
    assert result["costs"]["2 tasks"].keys() == {"ours", "our mftcoder form", "released"}
    by_name = {check["name"]: check for check in result["checks"]}
    assert len(by_name["released / ours, 4 tasks"]["samples"]) == 2
    assert by_name["weights of both mftcoder forms, difference"]["passed"]


def test_exactness(run):
    result = run("exactness", "--rows", 8)
    assert all(check["passed"] for check in result["checks"])
    assert len(result["checks"]) == 5
    assert min(result["costs"]["plain loop"]) > 0.01  # else the rows are too alike to show anything
    assert min(result["costs"]["released CoBa"]) > 0.01


@pytest.mark.slow
def test_methods(run, tiny_model):
    result = run("methods", "--model", tiny_model, "--length", 8, "--max-overhead", 0.5, "--tiny-steps", 50)
    with_target, without = result["costs"]["with a target"], result["costs"]["without"]
    assert {len(steps) for steps in with_target.values()} == {20}  # two turns of ten, one more step before
    assert {len(steps) for steps in without.values()} == {2}
    names = [check["name"] for check in result["checks"]]
    assert names[:-1] == [f"{name} / Uniform" for name in with_target if name != "Uniform"]
    assert result["details"]["relative_cost"].keys() == without.keys() - {"Uniform"}
    assert min(result["details"]["relative_cost"].values()) > 0
    assert min(result["details"]["record_intervals"]) >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("head", ["--vocabulary", 512, "--tokens", 64]),
        ("first_batch", []),
        ("step", ["--steps", 1, "--length", 16]),
        ("end_to_end", ["--steps", 1, "--batch-size", 2, "--max-length", 64]),
    ],
)
def test_benchmarks_of_the_real_model(run, name, arguments, data):
    if name in ("first_batch", "end_to_end"):
        arguments = [*arguments, "--data", data]
    assert run(name, *arguments)["checks"]


def test_report_claims(run):
    result = run("report_claims", "--sweeps", 2)
    assert len(result["checks"]) == 20
    assert len(result["costs"]["rates"]) == 25
    assert all(0 <= rate <= 1 for rate in result["costs"]["rates"].values())
