"""What holds a sweep together: a job that fails leaves its error and the others go on, and in the end all is said."""

import json
import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig

from lightning_coba.cli.command_end import end_with
from lightning_coba.cli.errors import one_line
from lightning_coba.cli.job_names import name_by_what_varies
from lightning_coba.cli.plugins import refuse_missing
from lightning_coba.cli.run_name import end_for_name
from lightning_coba.cli.sweep_summary import Outcome, print_summary
from lightning_coba.runs.files import RunFiles, sweep_journal
from lightning_coba.runs.redaction import without_secrets

#: The thread of a job that watches the process that started it.
WATCHER = "sweep-watcher"


class Sweep(Callback):
    """Watch over the jobs of a sweep: in the process that starts them, and as a copy in each that runs them.

    Every launcher hands the callbacks of Hydra on to where a job runs, and gives nothing back but what the job returns;
    so the jobs append to a journal in the sweep's folder.
    """

    current: ClassVar["Sweep | None"] = None

    def __init__(self) -> None:
        self.folder = Path()
        self.key = ""
        self.starter = 0
        self.again: list[str] = []
        self._card_before: float | None = None
        self._terminal: tuple[int, int] | None = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a name that leaves the folder of all runs; nothing has been written yet."""
        end_for_name(config.name)

    # ------------------------------------------------------------------ in the process that starts the jobs

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the journal for this sweep."""
        refuse_missing(config)
        end_for_name(config.name)
        name_by_what_varies(config)
        self.folder = Path(config.hydra.sweep.dir).absolute()
        self.starter = os.getpid()
        self.key = f"{time.strftime('%Y-%m-%dT%H:%M:%S')}-{self.starter}"
        if _is_grid(config):
            self.again = ["coba-train", *sys.argv[1:], *([] if config.resume == "auto" else ["resume=auto"])]
        Sweep.current = self

    def outcomes(self) -> list[Outcome]:
        """Return what became of the jobs that were started, in their order."""
        file = sweep_journal(self.folder)
        found: dict[int, Outcome] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            event = json.loads(line)
            if event.pop("sweep") == self.key:
                job = event.pop("job")
                found[job] = Outcome(**event)
        return [found[job] for job in sorted(found)]

    # ------------------------------------------------------------------ where a job runs

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any) -> None:
        """Say that the job runs, and where its output goes."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder = Path(config.hydra.runtime.output_dir)
        self._card_before = _changed(folder)
        self._note(config, "interrupted")  # unless something else follows
        if os.getppid() == self.starter:
            _end_with(self.starter)
            print(f"started   {_shown(folder)}", flush=True)
            self._terminal = _redirect_output(RunFiles(folder).output)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Say what became of the job. An error is kept in its folder and, in a sweep, does not reach the others."""
        error = job_return._return_value if job_return.status == JobStatus.FAILED else None
        if config.hydra.mode != RunMode.MULTIRUN:
            if error is not None:
                end_with(error)
            return
        folder = Path(config.hydra.runtime.output_dir)
        if error is None:
            untouched = self._card_before is not None and _changed(folder) == self._card_before
            event = "already there" if untouched else "finished"
            self._note(config, event)
        else:
            event = self._note_error(config, folder, error)
            _pass_on(config, job_return, error)
        if self._terminal is not None:
            _restore_output(self._terminal)
            self._terminal = None
            print(f"{event:9} {_shown(folder)}", flush=True)

    def _note_error(self, config: DictConfig, folder: Path, error: BaseException) -> str:
        from lightning_coba.cli.fit_folder import described  # imports torch
        from lightning_coba.runs.run_folder import RunFolder, RunInUseError

        if isinstance(error, RunInUseError):
            self._note(config, "elsewhere")
            return "elsewhere"
        run = RunFolder(folder)
        if isinstance(error, FileExistsError) and run.card:  # a run is there, and nobody said what to do with it
            self._note(config, "refused", one_line(error))
            return "refused"
        if not run.card:  # it failed before it could claim its folder
            run.write_end("failed", error, one_line(error), **described(config))  # type: ignore[arg-type]
        self._note(config, "failed", one_line(error))
        print(f"failed    {_shown(folder)}: {one_line(error)}", file=sys.stderr, flush=True)
        return "failed"

    def _note(self, config: DictConfig, event: str, error: str = "") -> None:
        line = {
            "sweep": self.key,
            "job": int(config.hydra.job.num),
            "event": event,
            "folder": str(config.hydra.runtime.output_dir),
            "error": error,
        }
        with sweep_journal(self.folder).open("a", encoding="utf-8") as file:
            file.write(json.dumps(without_secrets(line)) + "\n")


def report_sweep() -> bool:
    """Print what became of the jobs of the sweep that this process has started, if any; return whether all is well."""
    sweep, Sweep.current = Sweep.current, None
    if sweep is None:
        return True
    outcomes = sweep.outcomes()
    if outcomes:
        print_summary(outcomes, _shown(sweep.folder), sweep.again)
    return not any(outcome.event in ("failed", "refused", "interrupted") for outcome in outcomes)


def _pass_on(config: DictConfig, job_return: JobReturn, error: BaseException) -> None:
    if _is_grid(config):
        # It ends the sweep at the first error that it is given.
        job_return.return_value, job_return.status = math.nan, JobStatus.COMPLETED
    else:
        # Other sweepers count failed trials; not every exception finds its way out of a worker.
        job_return.return_value = RuntimeError(one_line(error))


def _is_grid(config: DictConfig) -> bool:
    """Return whether the jobs are the same each time; other sweepers choose them by what came out."""
    return config.hydra.sweeper._target_.endswith("BasicSweeper")


def _changed(folder: Path) -> float | None:
    card = RunFiles(folder).card
    return card.stat().st_mtime_ns if card.is_file() else None


def _shown(folder: Path) -> str:
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


def _end_with(starter: int) -> None:
    """Let this process end when the one that started it does: beside the sweep started again, it would train on."""

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(0.2)
        os._exit(1)

    if not any(thread.name == WATCHER for thread in threading.enumerate()):
        threading.Thread(target=watch, name=WATCHER, daemon=True).start()


def _redirect_output(file: Path) -> tuple[int, int]:
    """Let all that this process writes go to a file, and return where it went; loggers keep the streams they found."""
    sys.stdout.flush(), sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1), os.dup2(target, 2)
    os.close(target)
    return before


def _restore_output(before: tuple[int, int]) -> None:
    sys.stdout.flush(), sys.stderr.flush()
    for number, descriptor in enumerate(before, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
