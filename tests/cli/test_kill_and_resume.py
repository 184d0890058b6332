"""SIGKILL, for real, at several moments; then `resume=auto` gives the run that was never killed, bit for bit."""

import json
import re
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from lightning_coba.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about"),  # the balancer of a run this short says so
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),  # Lightning, on every resume
    # Said of a fit without a single batch too.
    pytest.mark.filterwarnings("ignore:MultitaskLM never used `self.task_weights`"),
]

FILES = ("metrics.csv", "balance.csv", "before_after.csv")
# Long enough between two batches for another process to strike there.
SLOW = "+callbacks.slow={_target_: slow_callback.Slow}"
SLOW_CALLBACK = """
import time
import lightning as L

class Slow(L.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(0.15)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def slow_callback(tmp_path_factory):
    folder = tmp_path_factory.mktemp("callback")
    (folder / "slow_callback.py").write_text(SLOW_CALLBACK)
    return folder


def until(condition, process, what):
    for _ in range(3000):
        if condition():
            return
        assert process.poll() is None, f"the run ended before {what}"
        time.sleep(0.02)
    raise AssertionError(f"never came to {what}")


def lines(file):
    return len(file.read_text().splitlines()) if file.is_file() else 0


def killed(command, cwd, overrides, python_path, moment):
    """Start a run, wait for the moment, and kill it."""
    process = command(cwd, *overrides, SLOW, python_path=python_path, start=True)
    run = cwd / "runs" / "powers-coba-seed1"
    try:
        until(lambda: moment(run), process, "the moment to kill it")
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    return run


MOMENTS = {
    # During the first window, before anything could be saved.
    "before the first checkpoint": lambda run: lines(run / "metrics.csv") > 1 and not (run / "checkpoints").exists(),
    # 12 steps and 6 passes: rows after the second record's checkpoint are already written.
    "between two checkpoints": lambda run: lines(run / "metrics.csv") > 6 and lines(run / "balance.csv") >= 5,
    "in the last epoch": lambda run: lines(run / "metrics.csv") > 9,
}


def test_killed_runs_end_as_the_uninterrupted_one(
    command, overrides, here, whole, tmp_path, slow_callback, capsys, monkeypatch
):
    monkeypatch.syspath_prepend(slow_callback)
    expected = whole / "runs" / "powers-coba-seed1"
    here(expected, *overrides, SLOW)
    for number, (name, moment) in enumerate(MOMENTS.items()):
        run = killed(command, tmp_path / str(number), overrides, slow_callback, moment)
        card = json.loads((run / "run.json").read_text())
        assert card["status"] == "running", name
        last = run / "checkpoints" / "last.ckpt"
        assert last.exists() == (number > 0), name
        if number == 0:
            with pytest.raises(FileExistsError, match=r"resume=auto.*name="):
                here(run, *overrides, SLOW)
        else:
            assert 0 < torch.load(last, weights_only=True)["global_step"] < 12
        capsys.readouterr()
        here(run, *overrides, SLOW, "resume=auto")
        told = capsys.readouterr().out
        step = re.search(r"Resuming .*powers-coba-seed1 at step (\d+)", told)
        assert 0 < int(step[1]) < 12 if number else "the run starts over" in told
        for file in FILES:
            assert (run / file).read_text() == (expected / file).read_text(), f"killed {name}: {file}"
        ours, theirs = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (run, expected))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
        cards = [json.loads((f / "run.json").read_text()) for f in (run, expected)]
        timings = [card.pop("timing") for card in cards]
        assert cards[0] == cards[1]
        assert timings[0]["steps"] == timings[1]["steps"] == 12


def test_half_written_files_are_repaired(here, overrides, whole, tmp_path):
    """A kill in the middle of a line, of the checkpoint's temporary file and of the card's."""
    run = tmp_path / "run"
    short = [*overrides, "trainer.max_epochs=1"]
    here(run, *short)
    whole_files = {file: (run / file).read_text() for file in FILES}
    RunFolder(run).write_card(status="running")
    for file in ("metrics.csv", "balance.csv"):
        (run / file).write_text(whole_files[file] + "99,1")
    (run / "run.json.partial").write_text("{")
    here(run, *short, "resume=auto")
    assert {file: (run / file).read_text() for file in FILES} == whole_files


def test_run_that_fails_before_it_trained_gives_way(here, overrides, tmp_path, data_folder):
    """What has no checkpoint cannot be resumed, and must not stand in the way either."""
    run = tmp_path / "run"
    bad = [*overrides, "+trainer.limit_train_batches=-3"]
    with pytest.raises(Exception, match="limit_train_batches"):
        here(run, *bad)
    assert not run.exists()
    broken = [
        *overrides,
        "+callbacks.broken={_target_: lightning.pytorch.callbacks.LearningRateMonitor}",
        "logger.csv=null",
    ]
    with pytest.raises(Exception, match="LearningRateMonitor"):
        here(run, *broken)
    assert RunFolder(run).card["status"] == "failed"
    assert RunFolder(run).card["error"].startswith("MisconfigurationException: Cannot use `LearningRateMonitor`")
    assert "Traceback" in (run / "error.txt").read_text()
    here(run, *overrides, "trainer.max_epochs=1")
    assert RunFolder(run).card["status"] == "finished"
    assert "error" not in RunFolder(run).card
    assert not (run / "error.txt").exists()


def test_run_that_fails_after_a_checkpoint_is_kept(here, overrides, tmp_path, monkeypatch):
    run = tmp_path / "run"
    from lightning_coba.cli import one_fit

    monkeypatch.setattr(one_fit, "write_results", lambda *a: 1 / 0)
    short = [*overrides, "trainer.max_epochs=1"]
    with pytest.raises(ZeroDivisionError):
        here(run, *short)
    assert RunFolder(run).card["status"] == "failed"
    monkeypatch.undo()
    with pytest.raises(FileExistsError, match=r"resume=auto.*name="):
        here(run, *short)
    here(run, *short, "resume=auto")
    assert RunFolder(run).card["status"] == "finished"


def test_trial_run_takes_no_name(here, overrides, tmp_path):
    run = tmp_path / "run"
    assert here(run, *overrides, "+trainer.fast_dev_run=true") != 0
    assert RunFolder(run).card == {}


@pytest.mark.slow
def test_two_spawned_ranks_leave_a_run_as_one_does(command, overrides, tmp_path):
    own = [o for o in overrides if not o.startswith("data.batch_size")]
    command(tmp_path, *own, "data.batch_size=2", "trainer.devices=2", "trainer.strategy=ddp_spawn", "name=spawn")
    command(tmp_path, *own, "data.batch_size=2", "trainer.devices=2", "trainer.strategy=ddp", "name=ddp")
    command(tmp_path, *overrides, "name=one")
    cards = [RunFolder(tmp_path / "runs" / name).card for name in ("one", "spawn", "ddp")]
    assert [card["status"] for card in cards] == ["finished"] * 3
    assert cards[1]["objective"]["value"] == pytest.approx(cards[0]["objective"]["value"], rel=0.05)
    assert cards[2]["objective"]["value"] == pytest.approx(cards[1]["objective"]["value"], rel=1e-5)
    # Spawned ranks are gone when the fit ends: nothing of what they wrote or held is lost with them.
    for file in FILES:
        assert (tmp_path / "runs/spawn" / file).read_text() == (tmp_path / "runs/ddp" / file).read_text(), file
    assert [card["timing"]["steps"] for card in cards] == [12] * 3
    assert [card["method"] for card in cards] == ["CoBa"] * 3
    before = [card["results_before"]["test_loss"]["values"] for card in cards]
    assert before[1] == pytest.approx(before[0], rel=1e-5)
