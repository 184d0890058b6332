"""SIGKILL for one process of a run of two: the rest ends too, and `resume=auto` ends with the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_coba.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc"),
]
SLOW = "+callbacks.slow={_target_: killing.Slow}"
FILES = ("metrics.csv", "balance.csv", "before_after.csv", "adapter/adapter_model.safetensors")


def ranks_below(process):
    """Return the process ids of the ranks that a process has started, the first rank first."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid in sorted(lines) if b"resource_tracker" not in lines[pid]]


def until(condition, what):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"never came to {what}")


def is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture(scope="module")
def arguments(overrides):
    own = [o for o in overrides if not o.startswith("data.batch_size")]
    return [*own, "data.batch_size=2", "trainer.devices=2", SLOW]


@pytest.fixture(scope="module")
def expected(arguments, toy_callbacks, clean_environment, tmp_path_factory):
    """Files of the run of two ranks that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    line = [sys.executable, "-m", "lightning_coba.cli.train", *arguments, "trainer.strategy=ddp", "name=run"]
    environment = clean_environment(PYTHONPATH=str(toy_callbacks))
    subprocess.run(line, cwd=folder, env=environment, check=True, timeout=400, capture_output=True)
    return {file: (folder / "runs" / "run" / file).read_bytes() for file in FILES}


@pytest.mark.parametrize(
    ("strategy", "whom"), [("ddp", "starter"), ("ddp", "rank 1"), ("ddp_spawn", "starter"), ("ddp_spawn", "rank 0")]
)
def test_killed_ranks_resume_to_the_bits_of_the_run_that_was_not_killed(
    strategy, whom, arguments, expected, command, toy_callbacks, clean_environment, tmp_path
):
    arguments = [*arguments, f"trainer.strategy={strategy}", "name=run"]
    run = tmp_path / "runs" / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_coba.cli.train", *arguments], cwd=tmp_path, start_new_session=True,
        env=clean_environment(PYTHONPATH=str(toy_callbacks)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: (run / "checkpoints/last.ckpt").exists() or process.poll() is not None, "a checkpoint")
    assert process.poll() is None
    # Where ranks are spawned both are children of the starter, which is none itself.
    victim = process.pid if whom == "starter" else ranks_below(process)[0]
    os.kill(victim, signal.SIGKILL)
    assert process.wait(timeout=100) != 0
    until(lambda: is_gone(process.pid), "the end of the other ranks")
    assert RunFolder(run).card["status"] in ("running", "failed")

    command(tmp_path, *arguments, "resume=auto", python_path=toy_callbacks)
    assert RunFolder(run).card["status"] == "finished"
    for file in FILES:
        assert (run / file).read_bytes() == expected[file], file
