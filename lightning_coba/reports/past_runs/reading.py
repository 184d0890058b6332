"""The validation losses of any past run, whatever wrote them down."""

import os
from collections.abc import Sequence
from pathlib import Path

from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.reports.formats import listed
from lightning_coba.reports.past_runs.lining_up import line_up
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.past_runs.rows import Log
from lightning_coba.reports.past_runs.run_folders import is_run_folder, read_run_folder
from lightning_coba.reports.past_runs.table_files import SUFFIXES, read_table
from lightning_coba.reports.past_runs.trackers import EVENTS, read_mlflow_database, read_mlflow_folder, read_tensorboard
from lightning_coba.runs.files import RunFiles

STATE = "trainer_state.json"
DATABASES = (".db", ".sqlite", ".sqlite3")


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
    - any CSV, TSV, JSON, JSON lines or Parquet file with one column per task, or one row per task and step.

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
    path = Path(path).expanduser()
    if not path.exists():
        raise MissingFileError(
            f"`read_losses.path` must be a file or folder that a run left; got {path}, which does not exist.",
            "Give a run folder, a log folder of TensorBoard or MLflow, or an exported CSV.",
        )
    if is_run_folder(path):  # which may hold event files too
        return read_run_folder(path, tasks, pattern)
    log = (_of_file(path) if path.is_file() else _of_folder(path)).of_run(run)
    return line_up(log, tasks, pattern)


def _of_file(file: Path) -> Log:
    if "tfevents" in file.name:
        return read_tensorboard(file)
    if file.suffix in DATABASES:
        return read_mlflow_database(file)
    if file.suffix == ".wandb":
        return _of_folder(file.parent)  # which says how to export it
    return read_table(file)


def _of_folder(folder: Path) -> Log:
    if runs := sorted(str(card.parent) for card in folder.rglob(RunFiles(folder).card.name)):
        raise UserError(f"{folder} holds {len(runs)} runs of coba-train.", f"Give one of them: {listed(runs)}.")
    if next(folder.rglob(EVENTS), None):
        return read_tensorboard(folder)
    if (of_mlflow := read_mlflow_folder(folder)).rows:
        return of_mlflow
    if states := sorted(folder.rglob(STATE), key=lambda file: file.stat().st_mtime):
        return read_table(states[-1])
    if unsynced := next(folder.rglob("*.wandb"), None):
        raise UserError(
            f"{unsynced.parent} is W&B's own format, which only W&B reads.",
            f"Type `wandb sync {unsynced.parent}`, then save the run's history: "
            'wandb.Api().run("ENTITY/PROJECT/RUN").history(samples=100000).to_csv("history.csv"), and give that '
            "file.",
        )
    if (metrics := RunFiles(folder).metrics).is_file():
        return read_table(metrics)
    files = sorted(str(file) for file in folder.rglob("*") if file.suffix in (*SUFFIXES, *DATABASES))
    found = f"Give one of these: {listed(files)}." if files else "It holds no file of a kind that is read."
    raise UserError(
        "`read_losses.path` must be a run folder, a log folder of TensorBoard, MLflow or transformers, or a table; "
        f"{folder} is none.",
        f"{found}",
    )
