"""Files of every kind that is read, and who reads them."""

import gzip
import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import chdir, closing
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import datasets
import pyarrow as pa
import yaml
from hydra.core.global_hydra import GlobalHydra
from pyarrow import parquet
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from written_runs import write_run

from lightning_coba.cli import sweep, train, trainers, training_run
from lightning_coba.cli.composing import composed
from lightning_coba.cli.composition import composition_error
from lightning_coba.cli.errors import is_for_the_user
from lightning_coba.data.reading.found_tasks import tasks_at
from lightning_coba.data.reading.row_cache import row_tables
from lightning_coba.reports.past_runs.reading import read_losses
from lightning_coba.runs.collection import read_run
from lightning_coba.runs.instantiation import built
from lightning_coba.runs.trained_run import TrainedRun
from lightning_coba.simplex.records import read_balance

ROWS = [{"prompt": f"frage ü {i}\n", "completion": f"answer {i}", "n": i, "x": i / 3} for i in range(12)]
CHATS = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 2
LOSSES = [{"step": 10 * i, "val_loss/code": 2 / (i + 1), "val_loss/qa": 3 / (i + 1)} for i in range(5)]
EXPERIMENT = """\
# @package _global_
defaults:
  - override /data: files
  - override /model: causal_lm
  - override /balancer: uniform
  - override /logger: csv

name: "first"
seed: 3
data:
  root: null
  batch_size: 4
  tasks:
    - _target_: lightning_coba.Task
      name: code
      train: code.jsonl
      prompt: "{question}\\n"
model:
  model: tiny
trainer:
  max_steps: ${seed}
  accelerator: cpu
"""


class Seed(NamedTuple):
    """A folder with files, one of which is damaged at a time, and what reads it."""

    folder: Path
    read: Callable[[Path], object]
    weight: int = 1


def lines(rows: list) -> bytes:
    """Return JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: list, separator: str = ",") -> bytes:
    """Return a table with a header."""
    cells = [rows[0], *(row.values() for row in rows)]
    quoted = [separator.join('"' + str(cell).replace('"', '""') + '"' for cell in row) for row in cells]
    return "\n".join([*quoted, ""]).encode()


def read_rows(folder: Path) -> object:
    """Read the tasks of a folder."""
    return [store.origin(0) for store in row_tables(tasks_at(folder))]


def read_run_folder(folder: Path) -> object:
    """Read a run folder as reports do."""
    run = read_run(folder)
    opened = TrainedRun.open(folder)
    _ = opened.base_model, opened.tasks
    _ = run.is_complete, run.after, run.best_step("code"), run.fits, opened.results, opened.name, opened.has_adapter
    if (folder / "balance.csv").is_file():
        read_balance(folder)
    return read_losses(folder)


def read_experiment(folder: Path) -> object:
    """Do all that coba-train does before it loads a model."""
    GlobalHydra.instance().clear()
    with (
        patch.object(sys, "argv", ["coba-train", "--config-dir", str(folder), "experiment=x"]),
        patch.object(training_run, "run", _build),
        patch.object(train, "end_with", _raise),
        patch.object(sweep, "end_with", _raise),
        chdir(folder),
    ):
        try:
            train.main()
        except Ended as end:
            raise end.__cause__ from None


def _build(fits: list, *_: object) -> float:
    for fit in fits:
        _ = built(fit.settings["data"], "data"), built(fit.settings["optimizer"], "optimizer")
        trainers.trainer_of(fit.settings)
    return 0.0


class Ended(BaseException):
    """What ended the command; Hydra lets it pass."""


def _raise(error: Exception) -> None:
    raise Ended from error if is_for_the_user(error) else composition_error(sys.argv[1:]) or error


def make_seeds(home: Path) -> list[Seed]:
    """Write a folder of every kind."""
    made = []

    def seed(name: str, files: dict[str, bytes], read: Callable[[Path], object], weight: int = 1) -> None:
        for path, content in files.items():
            (home / name / path).parent.mkdir(parents=True, exist_ok=True)
            (home / name / path).write_bytes(content)
        made.append(Seed(home / name, read, weight))

    seed("jsonl", {"a/train.jsonl": lines(ROWS), "a/test.jsonl": lines(ROWS[:3])}, read_rows, 3)
    seed("chat", {"a/train.ndjson": lines(CHATS)}, read_rows)
    seed("column", {"all.jsonl": lines([row | {"task": "ab"[i % 2]} for i, row in enumerate(ROWS)])}, read_rows)
    seed("gz", {"a/train.jsonl.gz": gzip.compress(lines(ROWS))}, read_rows, 2)
    seed("csv", {"a/train.csv": table(ROWS)}, read_rows, 2)
    seed("tsv", {"a/train.tsv.gz": gzip.compress(table(ROWS, "\t")), "a/test.tsv": table(ROWS, "\t")}, read_rows)
    seed("parquet", {}, read_rows, 2)
    (home / "parquet" / "a").mkdir(parents=True)
    dated = [row | {"when": pa.scalar(i, pa.timestamp("ns", "UTC")).as_py(), "l": [i]} for i, row in enumerate(ROWS)]
    parquet.write_table(pa.Table.from_pylist(dated), home / "parquet" / "a" / "train.parquet")
    seed("saved", {}, read_rows, 2)
    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:3])}
    datasets.DatasetDict(splits).save_to_disk(home / "saved" / "a")
    _make_logs(home, seed)
    write_run(home / "run", "CoBa", 1, {"code": 1.0, "qa": 2.0}, seconds=1.0)
    balance = ["record,step,task,loss,ratio,slope,rcs,acs,divergence_factor,weight"]
    balance += [f"{i},{10 * i},{t},{3 / i},{1 / i},,,,,0.5" for i in range(1, 5) for t in ("code", "qa")]
    seed("run", {"balance.csv": "\n".join([*balance, ""]).encode()}, read_run_folder, 3)
    files = {"experiment/x.yaml": EXPERIMENT.encode()}
    seed("checked_yaml", files, lambda folder: composed(f"{folder}/experiment/x.yaml"), 3)
    seed("trained_yaml", files, read_experiment)
    return made


def _make_logs(home: Path, seed: Callable) -> None:
    for name, content in {
        "log.csv": table(LOSSES), "log.tsv": table(LOSSES, "\t"), "log.jsonl": lines(LOSSES),
        "log.json": json.dumps(LOSSES).encode(), "trainer_state.json": json.dumps({"log_history": LOSSES}).encode(),
        "long.csv": table([{"step": i, "task": t, "loss": 1.0} for i in range(3) for t in ("a", "b")]),
        "chart.csv": table([{"Step": i, "r - val_loss/a": 1.0, "r - val_loss/b": 2.0} for i in range(3)]),
    }.items():  # fmt: skip
        seed(f"log_{name}", {name: content}, lambda folder, name=name: read_losses(folder / name))
    seed("log_parquet", {}, lambda folder: read_losses(folder / "log.parquet"))
    (home / "log_parquet").mkdir()
    parquet.write_table(pa.Table.from_pylist(LOSSES), home / "log_parquet" / "log.parquet")
    metrics = {f"mlruns/0/r/metrics/val_loss/{t}": b"1 2.0 10\n2 1.5 20\n" for t in ("code", "qa")}
    mlflow = {"mlruns/0/r/meta.yaml": yaml.safe_dump({"run_id": "r"}).encode(), **metrics}
    seed("log_mlflow", mlflow, lambda folder: read_losses(folder / "mlruns"))
    seed("log_sqlite", {}, lambda folder: read_losses(folder / "mlflow.db"))
    (home / "log_sqlite").mkdir()
    with closing(sqlite3.connect(home / "log_sqlite" / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE runs (run_uuid TEXT, name TEXT, lifecycle_stage TEXT)")
        columns = "run_uuid TEXT, key TEXT, step INT, value REAL, is_nan INT, timestamp INT"
        database.execute(f"CREATE TABLE metrics ({columns})")
        database.execute("INSERT INTO runs VALUES ('r', 'first', 'active')")
        for row in LOSSES:
            for key in ("val_loss/code", "val_loss/qa"):
                database.execute("INSERT INTO metrics VALUES ('r', ?, ?, ?, 0, 0)", (key, row["step"], row[key]))
    seed("log_events", {}, read_losses)
    writer = EventFileWriter(str(home / "log_events"))
    for row in LOSSES:
        for tag in ("val_loss/code", "val_loss/qa"):
            value = Summary.Value(tag=tag, simple_value=row[tag])
            writer.add_event(Event(step=row["step"], summary=Summary(value=[value])))
    writer.close()
