"""A sweep from the outside: real processes, real signals, and what is left of every job."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lightning_coba.runs.files import sweep_journal

pytestmark = pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about")  # of a run this short

PROBE = "+callbacks.probe={_target_: probe_callback.Probe}"
# Tells of the process it runs in, and leaves time between two batches for another process to strike there.
PROBE_CALLBACK = """
import os, pathlib, time
import lightning as L
import torch

class Probe(L.Callback):
    def on_train_start(self, trainer, pl_module):
        told = f"{os.getpid()} {torch.get_num_threads()} {os.environ.get('TOKENIZERS_PARALLELISM')}"
        pathlib.Path(trainer.default_root_dir, "probe.txt").write_text(told)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(float(os.environ.get("PROBE_SLEEP", "0")))
"""
METHODS = ("uniform", "coba", "fixed")
# With a constant learning rate the losses fall by more than their noise, and CoBa moves its weights.
LENGTH = ("trainer.max_epochs=4", "scheduler=none", "optimizer.lr=1e-3")
REPLACED = ("balancer.", "trainer.max_epochs", "scheduler.")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe_callback.py").write_text(PROBE_CALLBACK)
    return folder


@pytest.fixture(scope="module")
def sweep(overrides, probe, clean_environment):
    """Start `coba-train -m experiment=compare` in a folder, on a short run; return the process."""
    settings = [o for o in overrides if not o.startswith(REPLACED)]

    def start(folder, *arguments, **env):
        folder.mkdir(parents=True, exist_ok=True)
        line = [sys.executable, "-m", "lightning_coba.cli.train", "-m", "experiment=compare", *settings, PROBE]
        env = clean_environment(PYTHONPATH=str(probe), **env)
        del env["OMP_NUM_THREADS"]
        return subprocess.Popen(
            [*line, *LENGTH, *arguments], cwd=folder, env=env, text=True, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    return start


def ended(process, code):
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == code, printed[-4000:]
    return printed


@pytest.fixture(scope="module")
def swept(sweep, tmp_path_factory):
    """A sweep on an empty cache of which one job fails: `fixed` has no weights."""
    folder, cache = tmp_path_factory.mktemp("swept"), tmp_path_factory.mktemp("empty_cache")
    process = sweep(folder, f"balancer={','.join(METHODS)}", "seed=1", LIGHTNING_COBA_CACHE=str(cache))
    return folder / "multirun" / "powers", cache, ended(process, code=1)


def jobs(suite):
    return {name: folder for name in METHODS if (folder := suite / f"balancer={name},seed=1").is_dir()}


def cards(suite):
    files = {name: folder / "run.json" for name, folder in jobs(suite).items()}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def losses(folder):
    with (folder / "metrics.csv").open(newline="") as stream:
        return [row["train_loss"] for row in csv.DictReader(stream)]


def test_every_job_has_a_folder_and_the_failed_one_its_error(swept):
    suite, _, _ = swept
    assert [path.name for path in suite.parent.iterdir()] == ["powers"]
    found = cards(suite)
    assert {name: card["status"] for name, card in found.items()} == {
        "uniform": "finished", "coba": "finished", "fixed": "failed",
    }  # fmt: skip
    assert [found[name]["method"] for name in METHODS] == ["Uniform", "CoBa", "Fixed"]
    assert all(card["seed"] == 1 and card["suite"] == "powers" for card in found.values())
    assert found["fixed"]["error"].startswith("`balancer.weights` has to be given")
    trace = (jobs(suite)["fixed"] / "error.txt").read_text()
    assert trace.startswith("Traceback")
    assert "balancer.weights" in trace
    assert not (jobs(suite)["coba"] / "error.txt").exists()
    # The folders are named by what the sweep varies, and by what another one may vary.
    assert {path.name for path in suite.iterdir() if path.is_dir()} == {f"balancer={name},seed=1" for name in METHODS}


def test_summary_says_what_became_of_the_jobs_and_what_to_type_next(swept):
    suite, _, printed = swept
    summary = printed.partition("Sweep multirun/powers: ")[2].splitlines()
    assert summary[0] == "2 finished, 1 failed"
    failed = next(i for i, line in enumerate(summary) if line.startswith("  failed"))
    assert jobs(suite)["fixed"].name in summary[failed]
    assert "has to be given" in summary[failed + 1]
    again, report = [line.strip() for line in summary if line.strip().startswith("coba-")]
    assert again.startswith("coba-train -m experiment=compare data=files")
    assert again.endswith("balancer=uniform,coba,fixed seed=1  (runs only what is missing)")
    assert report == "coba-report multirun/powers"
    # What the jobs print would be mixed.
    assert "train_loss" not in printed
    assert "train_loss" in (jobs(suite)["coba"] / "output.log").read_text()


def test_jobs_run_side_by_side_with_their_share_of_threads(swept):
    suite, _, _ = swept
    told = [(jobs(suite)[name] / "probe.txt").read_text().split() for name in ("uniform", "coba")]
    assert [line[1:] for line in told] == [["1", "false"]] * 2
    events = [json.loads(line) for line in sweep_journal(suite).read_text().splitlines()]
    if len(os.sched_getaffinity(0)) > 1:
        assert told[0][0] != told[1][0]
        assert {event["job"] for event in events[:2]} == {0, 1}, "the second job waited for the first"


def test_methods_see_the_same_rows_and_a_job_is_the_run_by_itself(swept, here, overrides, tmp_path, probe, monkeypatch):
    suite, _, _ = swept
    uniform, coba = (losses(jobs(suite)[name]) for name in ("uniform", "coba"))
    # Three records pass before CoBa moves a weight: until then, on the same rows, the losses are the same.
    assert uniform[:6] == coba[:6]
    assert uniform != coba
    monkeypatch.syspath_prepend(probe)
    settings = [o for o in overrides if not o.startswith(REPLACED)]
    here(tmp_path / "alone", *settings, PROBE, *LENGTH, "balancer=coba")
    assert losses(tmp_path / "alone") == coba


def test_cache_is_filled_once(swept):
    _, cache, _ = swept
    for kind in ("rows", "tokens"):
        assert len(list((cache / kind).iterdir())) == 2  # tasks; nothing half-written


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "output.log"}


def test_same_command_runs_only_what_is_missing(swept, sweep):
    suite, cache, _ = swept
    before = contents(jobs(suite)["coba"])
    process = sweep(suite.parents[1], "balancer=coba", "seed=1", LIGHTNING_COBA_CACHE=str(cache))
    assert "Sweep multirun/powers: 1 already there\n" in ended(process, code=0)
    assert contents(jobs(suite)["coba"]) == before


def is_gone(process):
    """Whether nothing of a sweep is left: it has a process group of its own."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False


def until(condition, what):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"never came to {what}")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "whom"),
    [
        (signal.SIGKILL, "starter"),
        pytest.param(signal.SIGKILL, "worker", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "starter", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "all", marks=pytest.mark.slow),
    ],
)
def test_interrupted_sweep_goes_on_where_it_stopped(swept, sweep, tmp_path, number, whom):
    suite, cache, _ = swept
    mine = tmp_path / "multirun" / "powers"
    arguments = ("balancer=uniform,coba", "seed=1")
    process = sweep(tmp_path, *arguments, LIGHTNING_COBA_CACHE=str(cache), PROBE_SLEEP="0.3")
    until(lambda: [*mine.glob("*/checkpoints/last.ckpt")] or process.poll() is not None, "the first checkpoint")
    assert process.poll() is None
    workers = [int(file.read_text().split()[0]) for file in mine.glob("*/probe.txt")]
    if whom == "all":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid if whom == "starter" else workers[0], number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    until(lambda: is_gone(process), "the end of the workers")
    assert "finished" not in {card["status"] for card in cards(mine).values()}
    if number != signal.SIGKILL or whom == "worker":
        assert "interrupted" in printed.partition("Sweep multirun/powers: ")[2].splitlines()[0]

    printed = ended(sweep(tmp_path, *arguments, LIGHTNING_COBA_CACHE=str(cache)), code=0)
    assert "Sweep multirun/powers: 2 finished" in printed
    resumed = [
        name for name, folder in jobs(mine).items() if "Restored all states" in (folder / "output.log").read_text()
    ]
    assert resumed
    for name, folder in jobs(mine).items():
        assert losses(folder) == losses(jobs(suite)[name]), name
        assert "error" not in cards(mine)[name]


def test_tasks_by_themselves_are_found_at_the_root_and_stand_beside_the_methods(command, overrides, tmp_path):
    settings = [o for o in overrides if not o.startswith(REPLACED)]
    short = ["trainer.max_epochs=1", "test_before=false", "seed=4", "hydra/launcher=basic"]
    command(tmp_path, "-m", "experiment=single", *settings, *short)
    suite = tmp_path / "multirun" / "powers"
    for task in ("cubes", "squares"):
        [folder] = suite.glob(f"balancer=uniform,*data.only={task},*")
        card = json.loads((folder / "run.json").read_text())
        told = {key: card[key] for key in ("status", "method", "tasks", "seed", "suite")}
        assert told == {"status": "finished", "method": "Uniform", "tasks": [task], "seed": 4, "suite": "powers"}


def test_missing_launcher_is_named_with_what_installs_it(tmp_path):
    hidden = (
        "import sys; sys.modules['hydra_plugins.hydra_joblib_launcher'] = None\n"
        "from lightning_coba.cli.train import main\n"
        "sys.argv = ['coba-train', '-m', 'experiment=compare']\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", hidden], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("Type: pip install -c constraints.txt 'lightning-coba[sweep]'")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "multirun").exists()
