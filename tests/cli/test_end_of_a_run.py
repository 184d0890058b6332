"""Killed while its results are written, a run is completed by `resume=auto`: no file is lost for good."""

import os
import shutil
import sys

import pytest

from lightning_coba.cli import one_fit
from lightning_coba.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:MultitaskLM never used `self.task_weights`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork"),
    pytest.mark.skipif(sys.platform == "win32", reason="fork"),
]
KILLED = 9


def killed_at(train, kills_before):
    """Call a function in a child process, which dies before an event that a predicate picks; return its exit code."""
    child = os.fork()
    if child == 0:
        sys.addaudithook(lambda event, args: os._exit(KILLED) if kills_before(event, args) else None)
        try:
            train()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def trained(overrides, tmp_path_factory):
    """A run that has trained and was tested, and none of whose results is written; and the same run, finished."""
    from tiny_runs import training_here

    folder = tmp_path_factory.mktemp("trained") / "run"
    short = [*overrides, "trainer.max_epochs=1", "callbacks.progress=null"]
    with training_here() as here, pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_fit, "write_results", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            here(folder, *short)
        shutil.copytree(folder, folder.with_name("before"))
        patch.undo()
        here(folder, *short, "resume=auto")
    return folder, short


def names(folder):
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in kept if not name.endswith(".partial")} - {"checkpoints/previous.ckpt"}


def check_completed(here, trained, folder, moment):
    finished, short = trained
    here(folder, *short, "resume=auto")
    card, expected = (RunFolder(path).card for path in (folder, finished))
    assert card["status"] == "finished", moment
    assert card["results"] == expected["results"], moment
    assert names(folder) == names(finished), moment
    assert "finished" in (folder / "report.html").read_text(), moment


def is_move(event, args, name):
    return event == "os.rename" and str(args[1]).endswith(name)


@pytest.mark.parametrize("name", ["run.json", "report.html"])
def test_killed_before_its_last_files_a_run_is_completed(here, trained, tmp_path, name):
    finished, short = trained
    shutil.copytree(finished.with_name("before"), folder := tmp_path / "run")
    moves = []
    last = {"run.json": 2, "report.html": 1}[name]  # run.json: when the fit begins, when the run is finished

    def kills_before(event, args):
        moves.extend([name] * is_move(event, args, name))
        return len(moves) == last

    assert killed_at(lambda: here(folder, *short, "resume=auto"), kills_before) == KILLED
    assert RunFolder(folder).card["status"] == {"run.json": "running", "report.html": "finished"}[name]
    check_completed(here, trained, folder, name)


@pytest.mark.slow
def test_killed_before_any_file_that_it_writes_a_run_is_completed(here, trained, tmp_path):
    finished, short = trained
    for number in range(1000):
        shutil.copytree(finished.with_name("before"), folder := tmp_path / f"run{number}")
        events = []

        def kills_before(event, args, folder=folder, events=events, number=number):
            is_write = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if (is_write and str(args[0]).startswith(str(folder))) or is_move(event, args, ""):
                events.append(args)
            return len(events) == number + 1

        code = killed_at(lambda folder=folder: here(folder, *short, "resume=auto"), kills_before)
        check_completed(here, trained, folder, f"before event {number}")
        shutil.rmtree(folder)
        if code == 0:
            break
    assert number > 15
