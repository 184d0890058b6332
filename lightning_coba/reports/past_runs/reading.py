"""The validation losses of any past run, whatever wrote them down."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from lightning_coba.reports.past_runs.rows import Log
from lightning_coba.reports.past_runs.tables import SUFFIXES, read_table, trainer_state
from lightning_coba.reports.past_runs.tasks import listed, task_losses
from lightning_coba.reports.past_runs.trackers import (
    EVENTS,
    is_mlflow_run,
    mlflow_runs,
    read_mlflow_database,
    read_mlflow_folder,
    read_tensorboard,
)

if TYPE_CHECKING:
    from lightning_coba.balancers import CoBa

STATE = "trainer_state.json"
DATABASES = (".db", ".sqlite", ".sqlite3")


@dataclass(frozen=True, eq=False)
class LossTable:
    """Hold the held-out losses of a past run, a record a row.

    Args:
        tasks: the K task names.
        steps: ``[T]`` int64, the optimizer step (or whatever the source counts) of each record.
        losses: ``[T, K]`` float64; NaN where a task is absent.
        source: where they came from, for titles.
        initial: ``[K]`` V(0), measured before training; None, or NaN entries = the task's first record stands in.
        balancer: the settings that the run was trained with; None where it had none, or it is not known.
        weights: ``[T, K]`` weights that the run was trained with, after each record; None where not known.
        notes: what was read, what was left out and what was put together, a sentence each.

    Raises:
        ValueError: the shapes disagree, or there is no record.

    Example:
        >>> table = LossTable(["code", "qa"], [50, 100], [[1.2, 2.7], [1.1, float("nan")]])
        >>> table.num_records, table.ratios.round(3).tolist()
        (2, [[1.0, 1.0], [0.917, nan]])
    """

    tasks: Sequence[str]
    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    source: str = ""
    initial: NDArray[np.float64] | None = None
    balancer: "CoBa | None" = None
    weights: NDArray[np.float64] | None = None
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Take lists as arrays and check the shapes."""
        for name, kind in (("steps", np.int64), ("losses", np.float64), ("initial", np.float64)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        shape = (len(self.steps), len(self.tasks))
        if not all(shape) or self.losses.shape != shape:
            raise ValueError(
                f"`LossTable.losses` must hold a row a step and a column a task, at least one of each, so {shape}; got "
                f"{self.losses.shape}. Give as many steps and tasks."
            )
        if self.initial is not None and self.initial.shape != shape[1:]:
            raise ValueError(
                f"`LossTable.initial` must hold one V(0) a task, {shape[1]}; got {self.initial.shape}. Give one each."
            )

    @property
    def num_records(self) -> int:
        """T, the number of records."""
        return len(self.steps)

    @property
    def first_losses(self) -> NDArray[np.float64]:
        """``[K]`` V(0) of each task: measured before training where known, else its first loss; NaN where none is."""
        there = np.isfinite(self.losses)
        first = np.where(there.any(axis=0), self.losses[there.argmax(axis=0), np.arange(len(self.tasks))], np.nan)
        return first if self.initial is None else np.where(np.isnan(self.initial), first, self.initial)

    @property
    def ratios(self) -> NDArray[np.float64]:
        """``[T, K]`` losses / V(0)."""
        return self.losses / self.first_losses

    def with_initial(self, initial: Mapping[str, float] | str) -> Self:
        """Return the table with given losses before training.

        Args:
            initial: task -> V(0), or the same as text, ``"code=1.4,qa=2.9"``; other tasks keep theirs.

        Raises:
            ValueError: a name is no task, or a value is not finite and > 0.
        """
        given = _pairs(initial) if isinstance(initial, str) else initial
        for task, value in given.items():
            if task not in self.tasks or not 0 < value < math.inf:
                raise ValueError(
                    f"`initial` must give a finite loss > 0 of a task ({', '.join(self.tasks)}); got {task}={value:g}. "
                    "Type TASK=LOSS,TASK=LOSS."
                )
        known = [math.nan] * len(self.tasks) if self.initial is None else self.initial
        merged = [given.get(task, before) for task, before in zip(self.tasks, known, strict=True)]
        return replace(self, initial=np.array(merged, dtype=np.float64))

    @property
    def is_measured(self) -> bool:
        """Whether every V(0) was measured before training, and not taken from the first record."""
        return self.initial is not None and bool(np.isfinite(self.initial).all())


def _pairs(text: str) -> dict[str, float]:
    pairs = {}
    for part in text.split(","):
        task, _, value = part.rpartition("=")
        try:
            pairs[task.strip()] = float(value)
        except ValueError:
            raise ValueError(f"`initial` must be TASK=LOSS,TASK=LOSS; got {part!r}. Give a number.") from None
    return pairs


def read_losses(
    path: str | os.PathLike[str],
    tasks: Sequence[str] | None = None,
    pattern: str | None = None,
    run: str | None = None,
) -> LossTable:
    r"""Read the validation losses of a past run from whatever kept them.

    Use it before :func:`replay_settings`, or to draw a run of another program. What kept them is seen from the path:

    - a run folder of ``coba-train``, or its ``balance.csv`` or ``metrics.csv``;
    - a folder of TensorBoard's event files, at any depth;
    - a CSV file that the W&B page exports of a chart, or ``run.history()`` as CSV, JSON or Parquet;
    - MLflow's ``mlruns`` folder or SQLite database, or the CSV of its charts;
    - ``trainer_state.json`` of the Trainer of transformers, or a folder of its checkpoints;
    - any CSV, TSV, JSON, JSON lines or Parquet file with a column a task, or a row a task and step.

    Args:
        path: file or folder.
        tasks: names of tasks, or of whole columns; None = all that look like held-out losses.
        pattern: how a task's losses are called, such as ``"val_loss/{task}"``; None = found by the usual names.
        run: name of the run, or how it begins, where there are several.

    Returns:
        The losses; `notes` says what was read and what was left out.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it holds no held-out losses, or more than one way to read it; the message says what to choose.
        ImportError: the package that reads this kind of file is not installed.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "log.csv")
        >>> _ = file.write_text("step,val_loss/code,val_loss/qa\n50,1.2,2.7\n100,1.1,\n")
        >>> table = read_losses(file)
        >>> table.tasks, table.steps.tolist(), table.losses.tolist()
        (['code', 'qa'], [50, 100], [[1.2, 2.7], [1.1, nan]])
    """
    from lightning_coba.reports.past_runs.folders import METRICS_FILE, is_run_folder, read_run_folder

    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"`read_losses.path` must be a file or folder that a run left; got {path}, which does not exist. Give a "
            "run folder, a log folder of TensorBoard or MLflow, or an exported CSV."
        )
    if is_run_folder(path) and pattern is None:
        return read_run_folder(path, tasks)
    if is_run_folder(path) and path.is_dir():  # which may hold event files too
        path = path / METRICS_FILE
    found = task_losses(read_log(path), tasks, pattern, run)
    return LossTable(found.tasks, found.steps, found.losses, source=str(path), notes=found.notes)


def read_log(path: Path) -> Log:
    """Read whatever kept a run, before tasks are looked for."""
    if path.is_file():
        if path.name == STATE:
            return trainer_state(path)
        if "tfevents" in path.name:
            return read_tensorboard(path)
        if path.suffix in DATABASES:
            return read_mlflow_database(path)
        if path.suffix == ".wandb":
            raise _unsynced(path.parent)
        return read_table(path)
    if runs := sorted(str(card.parent) for card in path.rglob("run.json")):
        raise ValueError(f"{path} holds {len(runs)} runs of coba-train. Give one of them: {listed(runs)}.")
    if next(path.rglob(EVENTS), None):
        return read_tensorboard(path)
    if is_mlflow_run(path) or mlflow_runs(path):
        return read_mlflow_folder(path)
    if states := sorted(path.rglob(STATE), key=lambda file: file.stat().st_mtime):
        return trainer_state(states[-1])
    if unsynced := next(path.rglob("*.wandb"), None):
        raise _unsynced(unsynced.parent)
    if (path / "metrics.csv").is_file():
        return read_table(path / "metrics.csv")
    raise ValueError(_nothing_in(path))


def _nothing_in(path: Path) -> str:
    files = sorted(str(file) for file in path.rglob("*") if file.suffix in (*SUFFIXES, *DATABASES))
    found = f"Give one of these: {listed(files)}." if files else "It holds no file of a kind that is read."
    return (
        "`read_losses.path` must be a run folder, a log folder of TensorBoard, MLflow or transformers, or a table; "
        f"{path} is none. {found}"
    )


def _unsynced(folder: Path) -> ValueError:
    return ValueError(
        f"{folder} is W&B's own format, which only W&B reads. Type `wandb sync {folder}`, then save the run's history: "
        'wandb.Api().run("ENTITY/PROJECT/RUN").history(samples=100000).to_csv("history.csv"), and give that file.'
    )
