"""Read what TensorBoard and MLflow keep of a run."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from lightning_coba.errors import UserError
from lightning_coba.reports.past_runs.rows import Log, Row
from lightning_coba.user_files import read_text, reason, refusals

EVENTS = "*tfevents*"


def read_tensorboard(folder: Path) -> Log:
    """Read the event files of a folder, at any depth; each folder with event files is a run.

    ``SummaryWriter.add_scalars("val_loss", {"code": ...})`` makes a folder ``val_loss_code`` for each task; these are
    put back together as ``val_loss/code`` of the folder above.
    """
    holders = sorted({file.parent for file in folder.rglob(EVENTS)}) if folder.is_dir() else [folder]
    rows = []
    for holder in holders:
        for tag, step, value in _scalars(holder):
            home, spread = holder, tag.replace("/", "_") + "_"
            if holder != folder and holder.name.startswith(spread):
                home, tag = holder.parent, f"{tag}/{holder.name.removeprefix(spread)}"
            run = "" if home == folder else home.relative_to(folder).as_posix()
            rows.append(Row(f"{holder}, {tag}", run, {"step": step, tag: value}))
    return Log(str(folder), rows)


def _scalars(holder: Path) -> Iterator[tuple[str, int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    with refusals("the event files cannot be read", "Delete the damaged one.", holder):
        events = EventAccumulator(str(holder), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        tags = events.Tags()
        for tag in tags["scalars"]:
            yield from ((tag, event.step, event.value) for event in events.Scalars(tag))
        for tag in tags["tensors"]:  # how TensorFlow 2 writes a scalar
            if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
                yield from ((tag, e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag))


def read_mlflow_folder(folder: Path) -> Log:
    """Read the runs among and below a folder of MLflow's file store; no rows where it is none.

    ``metrics/<key>`` beside a run's ``meta.yaml`` holds lines of timestamp, value and step.
    """
    rows = []
    # No deeper: models and the trash of deleted runs have such files too.
    metas = sorted(meta for depth in ("", "*/", "*/*/") for meta in folder.glob(f"{depth}meta.yaml"))
    for metrics in (meta.parent / "metrics" for meta in metas):
        for file in sorted(path for path in metrics.rglob("*") if path.is_file()):
            key = file.relative_to(metrics).as_posix()
            for line, text in enumerate(read_text(file).splitlines(), 1):
                values = dict(zip(("timestamp", key, "step"), text.split(), strict=False))  # old lines have no step
                rows.append(Row(f"{file}:{line}", metrics.parent.name, values))
    return Log(str(folder), rows)


def read_mlflow_database(file: Path) -> Log:
    """Read the runs of MLflow's SQLite database."""
    query = (
        "SELECT printf('%s (%s)', runs.name, run_uuid), key, step, CASE is_nan WHEN 0 THEN value END "
        "FROM metrics JOIN runs USING (run_uuid) WHERE lifecycle_stage = 'active' AND typeof(key) = 'text' "
        "ORDER BY timestamp, step"
    )
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute(query).fetchall()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"`read_losses.path` must be a database of MLflow where it ends in {file.suffix}; this is none "
            f"({reason(error)}).",
            "Give mlflow.db, or the mlruns folder.",
            where=str(file),
        ) from None
    rows = [Row(f"{file}, {key} at step {step}", run, {"step": step, key: value}) for run, key, step, value in found]
    return Log(str(file), rows)
