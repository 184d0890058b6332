"""One process at a time in a folder, and a run that another process trains."""

import subprocess
import sys

import pytest

from lightning_coba.folder_lock import locked
from lightning_coba.runs import run_folder
from lightning_coba.runs.run_folder import RunFolder, RunInUseError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders are not locked there")

HOLDER = """
import pathlib, sys
from lightning_coba.folder_lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_holder_waits_or_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(BlockingIOError), locked(tmp_path, patience=0.0):
        raise AssertionError("held twice")
    with locked(tmp_path, patience=0.0):
        assert not list(tmp_path.iterdir())


def test_holder_that_dies_lets_go(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError), locked(tmp_path, patience=0.0):
        raise AssertionError("held twice")
    holder.kill()
    with locked(tmp_path):
        holder.communicate()


def test_error_inside_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path, patience=0.0):
        pass


def test_folder_that_is_not_there_is_not_held(tmp_path):
    with locked(tmp_path / "none"), locked(tmp_path / "none", patience=0.0):
        assert not list(tmp_path.iterdir())


def test_run_of_another_process_is_left_alone(tmp_path, monkeypatch, here, overrides):
    monkeypatch.setattr(run_folder, "PATIENCE", 0.0)
    folder = RunFolder(tmp_path)
    with folder.held():
        with pytest.raises(RunInUseError, match=r"Another process is training the run in .*name="):
            here(tmp_path, *overrides)
        assert folder.card == {}
