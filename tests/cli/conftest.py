"""Ways to call `coba-train`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def environment(**extra):
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PL_GLOBAL_SEED")}
    return env | {"OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0", "COLUMNS": "120"} | extra


@pytest.fixture(scope="session")
def clean_environment():
    return environment


@pytest.fixture(scope="session")
def toy_callbacks():
    """Folder with the callbacks that kill a run at a step."""
    return Path(__file__).parents[1] / "toy_system"


@pytest.fixture
def command():
    """Run `coba-train` in a process of its own and return what it printed; code=None = however it ends."""

    def run(cwd, *arguments, code=0, python_path=None, start=False):
        extra = {"PYTHONPATH": str(python_path)} if python_path else {}
        line = [sys.executable, "-m", "lightning_coba.cli.train", *arguments]
        options = {"cwd": cwd, "env": environment(**extra), "text": True, "encoding": "utf-8"}
        Path(cwd).mkdir(parents=True, exist_ok=True)
        if start:
            return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        done = subprocess.run(line, capture_output=True, timeout=300, check=False, **options)
        assert code is None or done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    return run
