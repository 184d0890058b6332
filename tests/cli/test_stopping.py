"""SIGTERM and Ctrl-C, for real: the run ends as preempted, and goes on as if nobody had stopped it."""

import json
import signal
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
