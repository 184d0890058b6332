"""Find run folders and read what each of them measured, however far it came."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.log_keys import TEST_LOSS
from lightning_coba.runs.card import (
    MULTITASK,
    Objective,
    Result,
    first_step,
    mapping,
    number,
    objective_of,
    read_card,
    results_of,
)
from lightning_coba.runs.curves import read_curves
from lightning_coba.runs.files import RunFiles
from lightning_coba.runs.settings import flat, read_settings

UNKNOWN = "(unknown)"


@dataclass(frozen=True, eq=False)
class Run:
    """Hold what one run folder says; what it does not say is empty or NaN.

    Attributes:
        folder: The run folder.
        status: "finished", "running", "failed", "preempted", "diverged", or "unreadable".
        system: What was trained, such as "multitask".
        suite: What its tasks are called together.
        method: Class of its balancer, such as "CoBa"; of its system, where it has none.
        seed: None where unknown.
        tasks: Names of its tasks in its order; of a system without tasks, the parts of its primary result.
        results: Key -> result on the test split at the chosen checkpoint. The first is the primary one.
        results_before: The same before training.
        objective: What the checkpoint was chosen by, with its best value.
        steps: Optimizer steps.
        seconds_per_step: Mean time of an optimizer step, validation not counted.
        validation_seconds: Time in validation passes.
        error: Why there are no results.
        settings: The resolved configuration as ``{"a.b": value}``; None where there is none.
        curves: Task -> step -> objective in validation passes, of the last phase that has any.
        phases: Name -> status of each fit of a run of several, in their order.
        card: Contents of ``run.json`` in the form of version 2.
    """

    folder: Path
    status: str
    system: str = MULTITASK
    suite: str = UNKNOWN
    method: str = UNKNOWN
    seed: int | None = None
    tasks: Sequence[str] = ()
    results: Mapping[str, Result] = field(default_factory=dict)
    results_before: Mapping[str, Result] = field(default_factory=dict)
    objective: Objective = field(default_factory=Objective)
    steps: float = math.nan
    seconds_per_step: float = math.nan
    validation_seconds: float = math.nan
    error: str = ""
    settings: Mapping[str, Any] | None = None
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    phases: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_complete(self) -> bool:
        """Whether it finished with a number for each of its tasks."""
        return self.status == "finished" and not self.error

    def require_card(self) -> None:
        """Refuse a run whose ``run.json`` is there and cannot be read; a comparison of many shows it as unreadable.

        Raises:
            DamagedFileError: Then.
        """
        card = RunFiles(self.folder).card
        if self.status == "unreadable" and card.is_file():
            read_card(card)

    @property
    def primary(self) -> str:
        """Key of the result by which reports rank, the first one; ``test_loss`` where there is none yet."""
        return next(iter(self.results or self.results_before), TEST_LOSS)

    @property
    def after(self) -> Result:
        """The primary result."""
        return self.results.get(self.primary, Result())

    @property
    def before(self) -> Result:
        """The primary result before training."""
        return self.results_before.get(self.primary, Result())

    @property
    def others(self) -> Mapping[str, Result]:
        """Key -> result of all but the primary one."""
        return {key: result for key, result in self.results.items() if key != self.primary}

    @property
    def fits(self) -> list[RunFiles]:
        """The files of each of its fits: in its folder, or in those of its phases."""
        return fits_of(self.folder, self.phases)

    def last_fit_with(self, file: Callable[[RunFiles], Path]) -> RunFiles:
        """Return the last of its fits that has a file; the last one where none has."""
        return next((fit for fit in reversed(self.fits) if file(fit).is_file()), self.fits[-1])

    def best_step(self, task: str) -> float:
        """Return the step at which the task's objective was best; NaN where it has none."""
        sign = 1 if self.objective.better == "min" else -1
        curve = {step: sign * value for step, value in self.curves.get(task, {}).items() if math.isfinite(value)}
        return min(curve, key=lambda step: (curve[step], step)) if curve else math.nan


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the run folders among and below some folders, sorted, each once.

    Args:
        paths: Run folders, or trees that hold them at any depth.

    Raises:
        FileNotFoundError: One of them is no folder.
    """
    found = set()
    for path in map(Path, paths):
        if not path.is_dir():
            raise MissingFileError(
                f"DIR must be a folder; got {path}, which is none.",
                "Give runs/, multirun/<name>/ or the folder of a run.",
            )
        for here, below, files in os.walk(path.resolve()):
            if RunFiles(Path(here)).card.name in files:
                found.add(Path(here))
                below.clear()  # checkpoints, figures, phases
    return sorted(found)


def fits_of(folder: Path, phases: Iterable[str]) -> list[RunFiles]:
    """Return the files of each fit of a run: those of its phases in their order, or of the run itself."""
    return [RunFiles(folder).phase(name) for name in phases] or [RunFiles(folder)]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder, complete or not: a half-written file costs what stood in it and nothing else."""
    folder = Path(folder)
    files = RunFiles(folder)
    try:
        card = read_card(files.card)
        fits = fits_of(folder, mapping(card.get("phases")))
    except UserError as error:
        return Run(folder, "unreadable", error=f"{files.card.name} cannot be read: {error.what}")
    phases = {str(name): mapping(entries) for name, entries in mapping(card.get("phases")).items()}
    last = [*phases.values()][-1] if phases else {}
    timing, objective = mapping(card.get("timing")), objective_of(card.get("objective"))
    run = Run(
        folder=folder,
        status=str(card.get("status", "unknown")),
        system=str(card.get("system") or MULTITASK),
        suite=str(card.get("suite") or UNKNOWN),
        method=str(card.get("method") or UNKNOWN),
        seed=card["seed"] if isinstance(card.get("seed"), int) else None,
        results=results_of(card.get("results")),
        results_before=results_of(card.get("results_before") or last.get("results_before")),
        objective=objective,
        seconds_per_step=number(timing.get("seconds_per_step")),
        validation_seconds=number(timing.get("validation_seconds")),
        settings=_settings(files.settings),
        phases={name: str(entries.get("status", "unknown")) for name, entries in phases.items()},
        card=card,
    )
    named = card.get("tasks")
    tasks = [str(task) for task in (named if isinstance(named, list) and named else run.after.values)]
    logged = [read_curves(fit.metrics, objective.key, first_step(card)) for fit in fits]
    curves, last_step = next((found for found in reversed(logged) if found[0]), logged[-1])
    steps = [count for count in (number(timing.get("steps")), float(last_step)) if count > 0]
    kept = {task: curves[task] for task in tasks if task in curves}
    run = replace(run, tasks=tasks, curves=kept or (curves if run.system != MULTITASK else {}))
    return replace(run, steps=max(steps, default=math.nan), error=_why_incomplete(run, card.get("error")))


def _why_incomplete(run: Run, error: Any) -> str:
    if run.status != "finished":
        still = "the run is not over, or was killed: continue it with resume=auto"
        return str(error or (still if run.status in ("running", "preempted") else "no reason was written down"))
    parts = run.tasks if run.system == MULTITASK else [*run.after.values]
    bad = [part for part in parts if not math.isfinite(run.after.values.get(part, math.nan))]
    if not parts:
        return "no result was written down"
    return f"no finite {run.primary.replace('_', ' ')} for {', '.join(bad)}" if bad else ""


def _settings(file: Path) -> dict[str, Any] | None:
    try:
        return flat(read_settings(file))
    except UserError:
        return None
