"""Find run folders and read what each of them measured, however far it came."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lightning_coba.log_keys import VAL_LOSS, task_key

CARD, METRICS = "run.json", "metrics.csv"
UNKNOWN = "(unknown)"
#: Columns of ``runs.csv`` before and after those of the metrics, of which there are as many as the runs have.
RUN_COLUMNS = ("suite", "method", "label", "seed", "status", "task", "test_loss_before", "test_loss_after")
MORE_COLUMNS = ("best_step", "steps", "val_loss", "seconds_per_step", "validation_seconds", "error", "folder")
#: What a metric's column begins with.
METRIC_PREFIX = "test_"


@dataclass(frozen=True, eq=False)
class Run:
    """Hold what one run folder says; what it does not say is empty or NaN.

    Attributes:
        folder: of the run.
        status: "finished", "failed", "running", or "unreadable".
        suite: what its tasks are called together.
        method: class of its balancer, such as "CoBa".
        seed: None where unknown.
        tasks: in its order.
        test_before: task -> test loss before training.
        test_after: task -> test loss at the checkpoint with the lowest mean validation loss.
        test_metrics: metric -> task -> value at the same checkpoint.
        val_loss: lowest mean validation loss.
        steps: optimizer steps.
        seconds_per_step: mean time of an optimizer step, validation not counted.
        validation_seconds: time in validation passes.
        error: why there are no results.
        settings: the resolved configuration as ``{"a.b": value}``; None where there is no ``config.yaml``.
        curves: task -> step -> validation loss.
    """

    folder: Path
    status: str
    suite: str = UNKNOWN
    method: str = UNKNOWN
    seed: int | None = None
    tasks: Sequence[str] = ()
    test_before: Mapping[str, float] = field(default_factory=dict)
    test_after: Mapping[str, float] = field(default_factory=dict)
    test_metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    val_loss: float = math.nan
    steps: float = math.nan
    seconds_per_step: float = math.nan
    validation_seconds: float = math.nan
    error: str = ""
    settings: Mapping[str, Any] | None = None
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether it finished with a number for each of its tasks."""
        return self.status == "finished" and not self.error

    def best_step(self, task: str) -> float:
        """Return the step at which the task's validation loss was lowest; NaN where it has none."""
        curve = {step: loss for step, loss in self.curves.get(task, {}).items() if math.isfinite(loss)}
        return min(curve, key=lambda step: (curve[step], step)) if curve else math.nan


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the run folders among and below some folders, sorted, each once.

    Args:
        paths: run folders, or trees that hold them at any depth.

    Raises:
        FileNotFoundError: one of them is no folder.
    """
    found = set()
    for path in map(Path, paths):
        if not path.is_dir():
            raise FileNotFoundError(
                f"DIR must be a folder; got {path}, which is none. Give runs/, multirun/<name>/ or the folder of a run."
            )
        for here, below, files in os.walk(path.resolve()):
            if CARD in files:
                found.add(Path(here))
                below.clear()  # checkpoints and figures
    return sorted(found)


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder, complete or not: a half-written file costs what stood in it and nothing else."""
    folder = Path(folder)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        return Run(folder, "unreadable", error=f"{CARD} cannot be read: {error}")
    timing = _mapping(card.get("timing"))
    curves, last_step = read_curves(folder / METRICS)
    after = _numbers(card.get("test_after"))
    named = card.get("tasks")
    tasks = [str(task) for task in (named if isinstance(named, list) and named else after)]
    steps = [number for number in (_number(timing.get("steps")), float(last_step)) if number > 0]
    run = Run(
        folder=folder,
        status=str(card.get("status", "unknown")),
        suite=str(card.get("suite") or UNKNOWN),
        method=str(card.get("method") or UNKNOWN),
        seed=card["seed"] if isinstance(card.get("seed"), int) else None,
        tasks=tasks,
        test_before=_numbers(card.get("test_before")),
        test_after=after,
        test_metrics={str(name): _numbers(values) for name, values in _mapping(card.get("test_metrics")).items()},
        val_loss=_number(card.get("val_loss")),
        steps=max(steps, default=math.nan),
        seconds_per_step=_number(timing.get("seconds_per_step")),
        validation_seconds=_number(timing.get("validation_seconds")),
        settings=_read_settings(folder / "config.yaml"),
        curves={task: curves[task] for task in tasks if task in curves},
    )
    return replace(run, error=_why_incomplete(run, card.get("error")))


def _why_incomplete(run: Run, error: Any) -> str:
    if run.status != "finished":
        still = "the run is not over, or was killed: continue it with resume=auto"
        return str(error or (still if run.status == "running" else "no reason was written down"))
    bad = [task for task in run.tasks if not math.isfinite(run.test_after.get(task, math.nan))]
    return f"no finite test loss for {', '.join(bad)}" if bad or not run.tasks else ""


def write_runs_csv(path: str | os.PathLike[str], runs: Iterable[Run], labels: Mapping[Path, str]) -> None:
    """Write a tidy table: one row a run and task, numbers that read back to the same bits, empty where unknown.

    Args:
        path: of the file.
        runs: complete or not.
        labels: run folder -> its method, told apart from the same method with other settings.
    """
    runs = list(runs)
    metrics = sorted({name for run in runs for name in run.test_metrics})
    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        columns = [*RUN_COLUMNS, *(METRIC_PREFIX + name for name in metrics), *MORE_COLUMNS]
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        for run in runs:
            of_run = {name: getattr(run, name) for name in ("suite", "method", "seed", "status", "error", "folder")}
            of_run |= {name: _cell(getattr(run, name)) for name in ("steps", "val_loss", "seconds_per_step")}
            of_run |= {"validation_seconds": _cell(run.validation_seconds), "label": labels.get(run.folder, "")}
            for task in run.tasks or [""]:
                losses = {
                    "test_loss_before": run.test_before.get(task),
                    "test_loss_after": run.test_after.get(task),
                    "best_step": run.best_step(task),
                    **{METRIC_PREFIX + name: values.get(task) for name, values in run.test_metrics.items()},
                }
                writer.writerow(of_run | {"task": task} | {name: _cell(value) for name, value in losses.items()})


def _cell(value: float | None) -> str:
    if value is None or math.isnan(value := float(value)):
        return ""
    return str(int(value)) if value.is_integer() else repr(value)


def _read_settings(file: Path) -> dict[str, Any] | None:
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return flat(settings) if isinstance(settings, dict) else None


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as ``{"a.b": value}``.

    Example:
        >>> flat({"data": {"max_length": 64, "tasks": ["a", "b"]}, "seed": 1})
        {'data.max_length': 64, 'data.tasks': ['a', 'b'], 'seed': 1}
    """
    if not isinstance(node, Mapping):
        return {prefix.rstrip("."): node}
    return {k: v for key, value in node.items() for k, v in flat(value, f"{prefix}{key}.").items()}


def read_curves(file: Path, prefix: str = VAL_LOSS) -> tuple[dict[str, dict[int, float]], int]:
    """Return losses by task and step from ``metrics.csv``, and the number of steps that were logged.

    Args:
        file: complete or not; where there is none, there are no curves.
        prefix: of the losses' columns, ``val_loss`` or ``train_loss``.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}, 0
    # Without its line break the last line may be half of one, and still have all its cells.
    reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    columns = next(reader, [])
    beginning = task_key(prefix, "")
    wanted = {i: name.removeprefix(beginning) for i, name in enumerate(columns) if name.startswith(beginning)}
    curves: dict[str, dict[int, float]] = {}
    last = 0
    for cells in reader:
        if len(cells) != len(columns) or not cells[0].isdigit():
            continue
        # A row is numbered by the step during which it was logged, from 0.
        last = max(last, step := int(cells[0]) + 1)
        for i, name in wanted.items():
            if cells[i]:
                curves.setdefault(name, {})[step] = _number(cells[i])
    return curves, last


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(value: Any) -> dict[str, float]:
    return {str(key): _number(number) for key, number in _mapping(value).items()}


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
