"""SIGTERM and Ctrl-C, for real: the run ends as preempted, and goes on as if nobody had stopped it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_coba.cli.outcome import outcome_of
from lightning_coba.cli.stopping import Stopped
from lightning_coba.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about"),  # the balancer of a run this short says so
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),  # Lightning, on every resume
    pytest.mark.filterwarnings("ignore:MultitaskLM never used `self.task_weights`"),  # of a fit without a batch
]
TOY = Path(__file__).parents[1] / "toy_system"
FILES = ("metrics.csv", "balance.csv", "before_after.csv")
CADENCES = {"validation": [], "steps": ["balancer.every_n_steps=1", "trainer.val_check_interval=8"]}
TOY_RUN = ["system=toy", "trainer.max_epochs=3", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"]


@pytest.fixture(autouse=True)
def signals(monkeypatch):
    monkeypatch.syspath_prepend(str(TOY))


def signal_at(hook, **options):
    return f"+callbacks.signal={{_target_: stopping_at.SignalAt,hook: {hook}," + (
        ",".join(f"{name}: {int(value) if not isinstance(value, str) else value}" for name, value in options.items())
        + "}"
    )


def stop(here, folder, *arguments, code=143):
    with pytest.raises(Stopped) as end:
        here(folder, *arguments)
    assert end.value.code == code
    return RunFolder(folder).card


def last_step(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def contents(folder, files=FILES):
    card = json.loads((folder / "run.json").read_text())
    kept = {file: (folder / file).read_text() for file in files if (folder / file).is_file()}
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value.tolist() for name, value in weights.items()} | kept | {"results": card["results"]}


@pytest.fixture(scope="module", params=CADENCES)
def whole(request, overrides, tmp_path_factory):
    """The settings of a cadence, and the run that nobody stops."""
    from tiny_runs import training_here

    settings = [*overrides, *CADENCES[request.param]]
    folder = tmp_path_factory.mktemp("whole")
    with training_here() as run:
        run(folder, *settings)
    return settings, contents(folder)


@pytest.mark.parametrize(
    ("hook", "step", "saved"),
    [
        ("on_train_batch_start", 4, 5),  # no pass is due: the step under way is the last one
        ("on_train_batch_start", 1, 2),  # a pass is due after it where validation is the cadence
        ("on_validation_batch_start", 4, 4),  # the pass is made first
    ],
)
def test_a_stopped_fit_is_saved_at_its_step_and_goes_on_bit_for_bit(here, whole, tmp_path, hook, step, saved):
    settings, expected = whole
    card = stop(here, tmp_path, *settings, signal_at(hook, step=step))
    assert card["status"] == "preempted"
    assert "error" not in card
    assert last_step(tmp_path) == saved
    here(tmp_path, *settings, "resume=auto")
    assert contents(tmp_path) == expected
    assert RunFolder(tmp_path).card["status"] == "finished"


@pytest.mark.parametrize(("phase", "step"), [("search", 6), ("retrain", 3)])
def test_a_run_of_two_phases_goes_on_in_the_phase_that_was_stopped(here, tmp_path, phase, step):
    settings = [f"hydra.searchpath=[file://{TOY / 'conf'}]", *TOY_RUN, "logger=csv"]
    here(tmp_path / "whole", *settings)
    run = tmp_path / "run"
    card = stop(here, run, *settings, signal_at("on_train_batch_start", step=step, phase=phase))
    assert (card["status"], card["phases"][phase]["status"]) == ("preempted", "preempted")
    assert last_step(run / phase) == step + 1
    here(run, *settings, "resume=auto")
    cards = [RunFolder(folder).card for folder in (run, tmp_path / "whole")]
    for name in ("search", "retrain"):
        files = [folder / name / "metrics.csv" for folder in (run, tmp_path / "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert cards[0]["phases"][name]["results"] == cards[1]["phases"][name]["results"]
    assert [(folder / "search" / "balance.csv").read_bytes() for folder in (run, tmp_path / "whole")].count(
        (run / "search" / "balance.csv").read_bytes()
    ) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("hook", ["on_test_batch_start", "on_test_end"])
def test_stopped_before_it_trained_the_run_starts_anew(here, overrides, tmp_path, hook, number):
    short = [*overrides, "trainer.max_epochs=1", "callbacks.progress=null"]
    probe = {"_target_": "stopping_at.SignalAt", "hook": hook, "number": int(number)}
    # A test pass has the callback of the progress bar alone.
    card = stop(here, tmp_path, *short, f"+callbacks.progress={json.dumps(probe)}".replace('"', ""), code=128 + number)
    assert card["status"] == "preempted"
    assert not (tmp_path / "checkpoints").exists()
    here(tmp_path, *short, "resume=auto")
    assert RunFolder(tmp_path).card["status"] == "finished"


def test_a_status_and_an_exit_code_follow_from_what_ended_a_run():
    assert outcome_of(Stopped(143))[:2] == ("preempted", 143)
    assert outcome_of(KeyboardInterrupt())[:2] == ("preempted", 130)
    assert outcome_of(ZeroDivisionError())[:2] == ("failed", 1)


# ---------------------------------------------------------------------- from the outside


class Command:
    """A command in a process of its own, whose output is read while it runs."""

    def __init__(self, environment, cwd, *line, python_path=()):
        extra = {"PYTHONPATH": os.pathsep.join(map(str, python_path)), "PYTHONUNBUFFERED": "1"}
        self.output, self.errors = cwd / "stdout.txt", cwd / "stderr.txt"
        with self.output.open("w") as out, self.errors.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, line)], cwd=cwd, env=environment(**extra), stdout=out, stderr=err,
                # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
                start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip

    def until(self, condition, seconds=120):
        give_up = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < give_up
            time.sleep(0.02)

    def children(self):
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]

    def ended(self, code, seconds=60):
        assert self.process.wait(seconds) == code, self.errors.read_text()
        return self.errors.read_text().splitlines()


PAUSES = """
import os, pathlib, time
import lightning as L

def _pause(name):
    pathlib.Path(name).touch()
    time.sleep(float(os.environ.get("PAUSE", 600)))

class Pause(L.Callback):
    def __init__(self, hook):
        setattr(self, hook, lambda *a: _pause("here"))

class PauseInTest(Pause):
    def __init__(self):
        super().__init__("on_test_start")

class PauseInResults(L.Callback):
    def setup(self, trainer, pl_module, stage):
        pl_module.save_pretrained = lambda folder: _pause("here")
"""


@pytest.fixture(scope="module")
def pauses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pauses")
    (folder / "pauses.py").write_text(PAUSES)
    return folder


#: Where a run is stopped, and by which part of it.
PHASES = {
    "reading the data": ["data.num_proc={_target_: pauses._pause,name: here}"],
    "before training": ["callbacks.progress._target_=pauses.PauseInTest"],
    "in a pass": ["+callbacks.pause={_target_: pauses.Pause,hook: on_validation_start}"],
    "writing results": ["+callbacks.pause={_target_: pauses.PauseInResults}"],
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("phase", "times"),
    [
        ("in a pass", 2),
        *(pytest.param(phase, times, marks=pytest.mark.slow) for phase in PHASES for times in (1, 2)),
    ],
)
def test_ctrl_c_is_answered_in_one_sentence(clean_environment, overrides, pauses, tmp_path, phase, times):
    short = [o for o in overrides if "num_sanity" not in o] + ["trainer.max_epochs=1", "name=r", *PHASES[phase]]
    command = Command(clean_environment, tmp_path, "-m", "lightning_coba.cli.train", *short, python_path=[pauses])
    command.until((tmp_path / "here").exists)
    for _ in range(times):
        command.process.send_signal(signal.SIGINT)
        time.sleep(1.2)
    [said] = [line for line in command.ended(130) if "arning" not in line and line.strip()]
    assert said.startswith("coba-train: stopped by Ctrl-C")
    has_begun = (tmp_path / "runs" / "r" / "run.json").exists()
    assert has_begun == (phase != "reading the data")
    assert has_begun == ("resume=auto" in said)
    if has_begun:
        assert RunFolder(tmp_path / "runs" / "r").card["status"] == "preempted"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    "verb", ["report", *(pytest.param(verb, marks=pytest.mark.slow) for verb in ("evaluate", "export", "replay"))]
)
def test_ctrl_c_ends_the_other_commands_in_one_line(clean_environment, finished_run, tmp_path, verb):
    pausing = (
        f"import pathlib, time, sys, signal; from lightning_coba.cli import {verb} as it\n"
        "import lightning_coba.runs.card as card\n"
        "def pause(*a): pathlib.Path('here').touch(); time.sleep(600)\n"
        f"card.read_entries = pause; it.main([{str(finished_run)!r}])"
    )
    command = Command(clean_environment, tmp_path, "-c", pausing)
    command.until((tmp_path / "here").exists)
    command.process.send_signal(signal.SIGINT)
    assert command.ended(130) == [f"coba-{verb}: stopped by Ctrl-C."]


SLOW = "+callbacks.pause={_target_: pauses.Steps}"
STEPS = """
import pathlib, time
import lightning as L

class Steps(L.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(0.1)
        pathlib.Path(f"step-{trainer.global_rank}").write_text(str(trainer.global_step))
"""


@pytest.fixture(scope="module")
def two_ranks(clean_environment, overrides, pauses, tmp_path_factory):
    """A run on two ranks, slow enough to strike in its middle: a function of a folder and a strategy."""
    (pauses / "pauses.py").write_text(PAUSES + STEPS)
    own = [o for o in overrides if not o.startswith("data.batch_size")]
    settings = [*own, "data.batch_size=2", "trainer.devices=2", "test_before=false", "name=r", SLOW]

    def start(cwd, strategy, *more):
        line = ["-m", "lightning_coba.cli.train", *settings, f"trainer.strategy={strategy}", *more]
        return Command(clean_environment, cwd, *line, python_path=[pauses])

    return start


def is_gone(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def struck(command, cwd, number, whom):
    """Wait for the middle of the fit, send a signal to a process, and wait until all of them have ended."""

    def is_there():
        steps = [cwd / "step-0", cwd / "step-1"]
        return all(step.is_file() and step.read_text() not in ("", "0", "1", "2", "3") for step in steps)

    command.until(is_there)
    children = command.children()
    os.kill(command.process.pid if whom == "parent" else children[-1], number)
    code = command.process.wait(60)  # 10 s on an idle machine
    for _ in range(600):
        if all(map(is_gone, children)):
            return code
        time.sleep(0.1)
    raise AssertionError("a rank outlives the command")


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["parent", "child"])
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_ranks_stop_together_and_go_on_bit_for_bit(two_ranks, tmp_path, strategy, whom):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    two_ranks(tmp_path / "whole", strategy).ended(0, 200)
    command = two_ranks(tmp_path / "stopped", strategy)
    assert struck(command, tmp_path / "stopped", signal.SIGTERM, whom) == 143
    run = tmp_path / "stopped" / "runs" / "r"
    assert RunFolder(run).card["status"] == "preempted"
    two_ranks(tmp_path / "stopped", strategy, "resume=auto").ended(0, 200)
    assert contents(run) == contents(tmp_path / "whole" / "runs" / "r")


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["parent", "child"])
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_no_rank_waits_for_one_that_was_killed(two_ranks, tmp_path, strategy, whom):
    command = two_ranks(tmp_path, strategy)
    code = struck(command, tmp_path, signal.SIGKILL, whom)
    assert code == (-signal.SIGKILL if whom == "parent" else 1)
    status = RunFolder(tmp_path / "runs" / "r").card["status"]
    assert status == ("running" if whom == "parent" else "failed")
