"""`coba-train trainer=fsdp2` on two processes (gloo): the run that DDP makes, with the model in shards."""

import csv
import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lightning_coba.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow
TWO = ["trainer.devices=2", "data.batch_size=2"]
KILL = "+callbacks.kill={_target_: killing.KillAt,phase: killed,step: 5}"


def rows(run):
    with (run / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def same_numbers(run, other):
    mine, theirs = rows(run), rows(other)
    assert len(mine) == len(theirs) > 10
    for ours, row in zip(mine, theirs, strict=True):
        logged = [key for key in row if (row[key] and "loss" in key) or ("weight/" in key and row[key])]
        assert [ours[key] != "" for key in logged] == [True] * len(logged)
        for key in logged:
            assert math.isclose(float(ours[key]), float(row[key]), abs_tol=1e-4), (key, ours["step"])


@pytest.fixture
def two_ranks(command, overrides, tmp_path):
    """Make a run of two processes and return its folder."""

    def run(name, *arguments, **options):
        without = ("data.batch_size", "peft." if "peft=none" in arguments else "data.batch_size")
        own = [o for o in overrides if not o.startswith(without)]
        command(tmp_path, *own, *TWO, f"name={name}", *arguments, **options)
        return tmp_path / "runs" / name

    return run


def test_an_adapter_is_trained_killed_resumed_and_exported_as_by_ddp(two_ranks, toy_callbacks, model_folder):
    sharded, expected = two_ranks("fsdp2", "trainer=fsdp2"), two_ranks("ddp", "trainer.strategy=ddp")
    same_numbers(sharded, expected)
    weights = [float(row["balance/weight/cubes"]) for row in rows(sharded) if row["balance/weight/cubes"]]
    assert max(weights) - min(weights) > 0.01
    results = [RunFolder(run).card["results"]["test_loss"]["values"] for run in (sharded, expected)]
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    adapters = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), run / "adapter").state_dict()
        for run in (sharded, expected)
    ]
    for name, value in adapters[1].items():
        torch.testing.assert_close(adapters[0][name], value, rtol=0, atol=1e-4)

    killed = two_ranks("killed", "trainer=fsdp2", KILL, code=None, python_path=toy_callbacks)
    assert RunFolder(killed).card["status"] == "running"
    two_ranks("killed", "trainer=fsdp2", "resume=auto")
    for file in ("metrics.csv", "balance.csv", "before_after.csv", "adapter/adapter_model.safetensors"):
        assert (killed / file).read_bytes() == (sharded / file).read_bytes(), file


def test_a_whole_model_is_trained_and_exported_as_by_ddp(two_ranks):
    sharded = two_ranks("fsdp2", "trainer=fsdp2", "peft=none")
    expected = two_ranks("ddp", "trainer.strategy=ddp", "peft=none")
    same_numbers(sharded, expected)
    models = [AutoModelForCausalLM.from_pretrained(run / "model").state_dict() for run in (sharded, expected)]
    for name, value in models[1].items():
        torch.testing.assert_close(models[0][name], value, rtol=0, atol=1e-4)
