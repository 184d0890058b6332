"""A run that diverges ends as such: its status, its exit code, what it keeps, and what it never writes."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about")  # of a run this short

#: Breaks the training loss from a step on, in this process.
POISON = "+callbacks.poison={_target_: poison.Poison,step: 5}"
POISON_CALLBACK = """
import lightning as L
import torch

class Poison(L.Callback):
    def __init__(self, step): self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step + 1 >= self.step and trainer.default_root_dir.endswith(self.where):
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(torch.nan)

    where = ""
"""


@pytest.fixture(scope="module")
def poison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poison")
    (folder / "poison.py").write_text(POISON_CALLBACK)
    return folder


def card_of(run):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads((run / "run.json").read_text(), parse_constant=refuse)


def test_a_learning_rate_beyond_measure_ends_with_the_status_diverged_and_writes_no_adapter(
    command, overrides, tmp_path
):
    said = command(tmp_path, *overrides, "optimizer.lr=1e30", "name=wild", code=1)
    run = tmp_path / "runs" / "wild"
    card = card_of(run)
    assert card["status"] == "diverged"
    assert card["divergence"] == {"step": 2, "tasks": ["cubes", "squares"]}
    assert card["error"] in said
    for words in ("diverged", "step 2", "optimizer.lr", "trainer.gradient_clip_val", "no model was written"):
        assert words in card["error"]
    assert "Traceback" not in said
    assert not (run / "adapter").exists()
    assert not list((run / "checkpoints").glob("*")) if (run / "checkpoints").exists() else True
    assert "diverged" in (run / "report.html").read_text()
