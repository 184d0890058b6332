"""A run that diverges ends as such: its status, its exit code, what it keeps, and what it never writes."""

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_runs import training_here
from transformers import AutoModelForCausalLM

from lightning_coba.errors import DivergedError

pytestmark = pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about")  # of a run this short

#: Breaks the gradients from a step on.
POISON = "+callbacks.poison={_target_: poison.Poison,step: 5}"
POISON_CALLBACK = """
import lightning as L
import torch

class Poison(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step + 1 >= self.step:
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(torch.nan)

class Huge(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for parameter in pl_module.parameters():
            if parameter.requires_grad and trainer.global_step == 1:
                parameter.data.fill_(1e38)  # finite, and what is computed with it is not
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


@pytest.fixture(scope="module")
def diverged(overrides, poison, tmp_path_factory):
    """The folder of a run whose gradients are not finite from step 5 on, after the passes at steps 2 and 4."""
    folder = tmp_path_factory.mktemp("diverged") / "wild"
    with pytest.MonkeyPatch.context() as patch, training_here() as run:
        patch.syspath_prepend(str(poison))
        with pytest.raises(DivergedError):
            run(folder, *overrides, POISON)
    return folder


@pytest.fixture(scope="module")
def command_here(clean_environment):
    """Run one of the commands in a process of its own and return what it printed."""

    def run(verb, cwd, *arguments, code=0, python_path=""):
        line = [sys.executable, "-m", f"lightning_coba.cli.{verb}", *map(str, arguments)]
        env = clean_environment(PYTHONPATH=str(python_path))
        done = subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    return run


def test_what_was_learned_before_is_kept_and_exported(diverged, model_folder):
    run = diverged
    card = card_of(run)
    assert (card["status"], card["divergence"]["step"]) == ("diverged", 6)
    assert "step 4 is kept (best.ckpt)" in card["error"]
    for name in ("best", "last"):
        saved = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert saved["global_step"] == 4
        assert all(value.isfinite().all() for value in saved["state_dict"].values())
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    assert adapter
    assert all(value.isfinite().all() for value in adapter.values())
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), run / "adapter")
    loaded = {f"model.{name}": p for name, p in model.named_parameters() if "lora" in name}
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(loaded[name], value) for name, value in best.items())


def test_going_on_with_it_is_refused_with_what_to_do(diverged, here, overrides):
    run = diverged
    before = (run / "run.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"diverged at step 6.*same settings.*name=\.\.\..*optimizer\.lr"):
        here(run, *overrides, "resume=auto")
    assert (run / "run.json").read_bytes() == before


@pytest.mark.slow
def test_other_commands_work_on_it_and_show_its_status(diverged, command_here, tmp_path):
    run = diverged
    assert "diverged" in (run / "report.html").read_text()
    command_here("report", tmp_path, run)
    assert "diverged" in (tmp_path / "report" / "report.html").read_text()
    assert "cubes" in command_here("evaluate", tmp_path, run, "--out", tmp_path / "evaluation")
    command_here("export", tmp_path, run, "--out", tmp_path / "export")
    assert "diverged" in (tmp_path / "export" / "README.md").read_text()


@pytest.mark.slow
def test_in_a_sweep_a_diverged_job_has_failed_and_the_others_go_on(command_here, overrides, tmp_path):
    said = command_here("train", tmp_path, "-m", *overrides, "optimizer.lr=1e30,3e-3", code=1)
    assert "1 finished, 1 failed" in said
    assert "Training diverged" in said
    [sweep] = (tmp_path / "multirun").iterdir()
    assert sorted(card_of(card.parent)["status"] for card in sweep.glob("*/run.json")) == ["diverged", "finished"]


@pytest.mark.slow
def test_two_spawned_ranks_say_why_they_diverged_and_keep_what_was_learned(command, overrides, poison, tmp_path):
    spawned = ["trainer.strategy=ddp_spawn", "trainer.devices=2", "data.batch_size=2"]
    own = [o for o in overrides if not o.startswith("data.batch_size")]
    said = command(tmp_path, *own, *spawned, POISON, "name=spawned", code=1, python_path=poison)
    run = tmp_path / "runs" / "spawned"
    card = card_of(run)
    assert card["status"] == "diverged"
    assert card["divergence"]["step"] >= 5
    assert card["error"] in said
    assert "Traceback" not in said
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_weights_from_a_step_without_a_finite_loss_are_not_kept(command, overrides, poison, tmp_path):
    """Nothing was measured before training, so the first pass has nothing to compare with, and is followed by more."""
    unseen = ["trainer.num_sanity_val_steps=0", "trainer.val_check_interval=1"]
    command(tmp_path, *overrides, *unseen, "+callbacks.huge={_target_: poison.Huge}", code=1, python_path=poison)
    run = tmp_path / "runs" / "powers-coba-seed1"
    assert card_of(run)["status"] == "diverged"
    assert (run / "checkpoints" / "last.ckpt").exists()  # its weights are finite
    assert not (run / "adapter").exists()
