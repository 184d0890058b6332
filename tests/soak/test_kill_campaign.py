"""Hundreds of SIGKILLs at random moments; each run, resumed, ends with the bytes of the one that was never killed.

COBA_KILLS sets their number, COBA_KILL_SEED the moments. The processes are forked from one that has everything loaded.
"""

import os
import random
import shutil
import time
from itertools import cycle
from pathlib import Path

import pytest
from forking import Child

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked there"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
NUM_KILLS = int(os.environ.get("COBA_KILLS", "300"))
SEED = int(os.environ.get("COBA_KILL_SEED", "0")) or random.randrange(1, 10**6)
TOY = Path(__file__).parents[1] / "toy_system"

STEPS = ["balancer.every_n_steps=2"]
CASES = {
    "coba, passes": ["balancer=coba"],
    "coba, steps": ["balancer=coba", *STEPS],
    "lbtw, passes": ["balancer=lbtw"],
    "lbtw, steps": ["balancer=lbtw", *STEPS],
    "famo, steps": ["balancer=famo"],
    "famo, every second step": ["balancer=famo", *STEPS],
    "two phases": [
        "system=toy", f"hydra.searchpath=[file://{TOY / 'conf'}]", "trainer.max_epochs=3",
        "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "logger=csv",
    ],
}  # fmt: skip
# What a run leaves that is the same each time it is made.
KEPT = ("metrics.csv", "balance.csv", "before_after.csv", "*.safetensors", "selected.json")


def kept(folder):
    files = {path for pattern in KEPT for path in folder.rglob(pattern)}
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def run_of(here, overrides, monkeypatch):
    """Return a function: case -> function of a folder that begins or resumes the case's run in it."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    common = [o for o in overrides if not o.startswith(("balancer.", "trainer.max_epochs"))]

    def run(name):
        own = CASES[name] if name == "two phases" else [*common, "trainer.max_epochs=2", *CASES[name]]
        if "coba" in name:
            own = [*own, "balancer.window_records=2", "balancer.warmup_records=1"]
        return lambda folder: here(folder, *own, "resume=auto")

    return run


@pytest.mark.filterwarnings("ignore::UserWarning")  # runs this short are warned of
def test_killed_runs_end_with_the_bytes_of_the_uninterrupted_ones(run_of, tmp_path):
    print(f"\n{NUM_KILLS} kills, COBA_KILL_SEED={SEED}")
    moments = random.Random(SEED)
    runs = {name: run_of(name) for name in CASES}
    expected, seconds = {}, {}
    for name, run in runs.items():
        run(tmp_path / "warm")  # imports and caches; forked processes find them
        (tmp_path / "warm").rename(tmp_path / f"warm, {name}")
        began = time.monotonic()
        Child(lambda run=run, name=name: run(tmp_path / name), tmp_path / "log").finish()
        expected[name], seconds[name] = kept(tmp_path / name), time.monotonic() - began
        assert len(expected[name]) >= 3
    struck = 0
    for number, name in zip(range(NUM_KILLS), cycle(runs), strict=False):
        folder, log = tmp_path / f"killed {number}", tmp_path / "log"
        moment = moments.uniform(0, seconds[name])
        struck += Child(lambda: runs[name](folder), log).kill_after(moment)  # noqa: B023 - it is called at once
        Child(lambda: runs[name](folder), log).finish()  # noqa: B023
        found = kept(folder)
        assert found.keys() == expected[name].keys(), (name, number, moment)
        differing = [file for file, content in expected[name].items() if found[file] != content]
        assert not differing, (name, number, moment, differing, folder)
        shutil.rmtree(folder)
        if number % 50 == 49:
            print(f"{number + 1} runs, {struck} of them killed at work")
    print(f"{struck} of {NUM_KILLS} struck a run at work; a whole one took {min(seconds.values()):.1f} to "
          f"{max(seconds.values()):.1f} s")  # fmt: skip
    assert struck > NUM_KILLS / 2
