"""Read tables of a past run: CSV, TSV, JSON, JSON lines and Parquet, as people and tracking tools write them."""

import csv
import io
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lightning_coba.errors import UserError
from lightning_coba.reports.past_runs.names import STEP_COLUMNS, held_out_families, is_held_out
from lightning_coba.reports.past_runs.rows import Log, Row
from lightning_coba.runs.settings import flat
from lightning_coba.user_files import open_file, parse_json, read_text, refusals, shown

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
#: Columns of a long table: which quantity a row is about, its value, and of which rows it is.
_QUANTITY = ("task", "key", "metric", "metric_name", "name", "tag")
_VALUE = ("loss", "val_loss", "eval_loss", "value")
_SPLIT = ("split", "phase", "stage", "subset")
_RUN = ("run", "run_id", "run_name", "run_uuid")
_LIMITS = ("__MIN", "__MAX")  # which the page of W&B exports beside each line of a chart
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(?:[eE][+-]?\d+)?\s*")


def read_table(file: Path) -> Log:
    """Read a file with one column per task, or with one row per task and step.

    Raises:
        ValueError: It is no table, or empty; the message names the line.
    """
    log = Log(str(file), [Row(where, "", flat(values, separator="/")) for where, values in _cells(file)], bare=True)
    if not log.rows:
        raise UserError(f"{file} holds no row.", "Give a file with one row per validation pass.")
    columns = log.columns
    if {name.lower() for name in columns} == {"wall time", "step", "value"}:
        raise UserError(
            f"{file} holds one metric, as the TensorBoard page saves it, and no name of a task.",
            "Give the folder of the event files instead.",
        )
    if "run_id" in columns and any(name.startswith("metrics.") for name in columns):
        raise UserError(
            f"{file} holds each run's last value of a metric, not its history.",
            "Give the mlruns folder or mlflow.db, or the CSV of a metric's chart in the MLflow page.",
        )
    if run := next((name for name in columns if name.strip("_ ").lower() in _RUN), None):
        log = log._replace(rows=[_of_run(row, run) for row in log.rows])
    return _of_chart(log) or _of_long_table(log) or log


def _of_run(row: Row, column: str) -> Row:
    others = {name: value for name, value in row.values.items() if name != column}
    return Row(row.where, str(row.values.get(column, "")), others)


def _of_chart(log: Log) -> Log | None:
    """Return the rows of a chart that the page of W&B exports: its columns are called "run - metric"."""
    columns = log.columns
    lines = [name for name in columns if " - " in name]
    if not lines or (len(lines) < len(columns) - 1 and not any(name.endswith(_LIMITS) for name in columns)):
        return None
    rows = []
    for row in log.rows:
        steps = {name: value for name, value in row.values.items() if name.lower() in STEP_COLUMNS}
        runs: dict[str, dict[str, Any]] = {}
        for name in lines:
            if not name.endswith(_LIMITS):
                run, _, metric = name.rpartition(" - ")  # the name of a run may hold the separator itself
                runs.setdefault(run.removeprefix("Group: "), dict(steps))[metric] = row.values.get(name)
        rows += [Row(row.where, run, values) for run, values in runs.items()]
    return Log(log.name, rows, notes=["Columns of a W&B chart, min and max left out."])


def _of_long_table(log: Log) -> Log | None:
    """Return one row per quantity and step as a row of that quantity; None where the table is none of these."""
    plain = {name.strip("_ ").lower(): name for name in log.columns}
    quantity, value, split = (
        next((plain[name] for name in names if name in plain), None) for names in (_QUANTITY, _VALUE, _SPLIT)
    )
    if quantity is None or value is None or held_out_families(log.columns):
        return None
    kept, notes = [row for row in log.rows if split and is_held_out(str(row.values.get(split) or ""))], []
    if kept and len(kept) < len(log.rows):
        notes = [f"{len(log.rows) - len(kept)} rows left out whose `{split}` is not of validation."]
    rows = []
    for row in kept or log.rows:
        name = str(row.values.get(quantity) or "").strip()
        if not name:
            raise UserError(
                f"column `{quantity}` must name a task or metric; got nothing.", "Fill it in.", where=f"{row.where}"
            )
        steps = {key: cell for key, cell in row.values.items() if key.lower() in STEP_COLUMNS}
        rows.append(Row(row.where, row.run, steps | {name: row.values.get(value)}))
    return Log(log.name, rows, bare=quantity.strip("_").lower() == "task", notes=notes)


def _cells(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place and the cells of every row."""
    suffix = file.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _csv(file)
    elif suffix in (".jsonl", ".ndjson"):
        for line, text in enumerate(io.StringIO(read_text(file), newline=None), 1):
            if text.strip():
                values = parse_json(text.strip(), f"{file}:{line}", "the line", "Correct or delete it.")
                if not isinstance(values, dict):
                    told = f"a line must be a JSON object; got {shown(text.strip())}."
                    raise UserError(told, "Correct or delete it.", where=f"{file}:{line}")
                yield f"{file}:{line}", values
    elif suffix == ".json":
        yield from ((f"{file}, row {i}", values) for i, values in enumerate(_json_rows(file), 1))
    elif suffix == ".parquet":
        from pyarrow import parquet

        open_file(file).close()  # refuses what is no file
        with refusals("the file is not readable Parquet", "Write it again.", file):
            table = parquet.ParquetFile(file).read()
            table.validate(full=True)  # of damage Arrow would crash
            rows = table.to_pylist()
        yield from ((f"{file}, row {i}", values) for i, values in enumerate(rows, 1))
    else:
        raise UserError(
            f"`read_losses.path` must end in one of {', '.join(SUFFIXES)}; got {file}.", "Convert it to CSV."
        )


def _csv(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = read_text(file)
    separator = max(",\t;", key=text.partition("\n")[0].count)
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=separator)
    lines = _csv_lines(reader, file)
    columns = [name.strip() for name in next(lines, [])]
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        told = f"each column must have a name of its own; {shown(twice[0])} is there twice."
        raise UserError(told, "Rename one.", where=f"{file}:1")
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise UserError(
                f"a row must have as many cells as the header, {len(columns)}; got {len(cells)}.",
                "Complete or delete the line.",
                where=f"{file}:{reader.line_num}",
            )
        if separator != ",":  # as spreadsheets write numbers where the comma separates decimals
            cells = [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]
        yield f"{file}:{reader.line_num}", {name: cell for name, cell in zip(columns, cells, strict=True) if name}


def _csv_lines(reader: Any, file: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        told = f"the line is not valid CSV ({error})."
        raise UserError(told, "Correct or delete it.", where=f"{file}:{reader.line_num}") from None


def _json_rows(file: Path) -> list[Mapping[str, Any]]:
    """Return the rows of a JSON file: a list of rows, lists (or mappings by row) under each column's name.

    The Trainer of transformers keeps such a list in ``trainer_state.json``.
    """
    found = parse_json(read_text(file), str(file))
    if isinstance(found, dict) and isinstance(found.get("log_history"), list):
        found = found["log_history"]
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return found
    if isinstance(found, dict) and found and all(isinstance(column, list | dict) for column in found.values()):
        columns = [column.values() if isinstance(column, dict) else column for column in found.values()]
        return [dict(zip(found, cells, strict=True)) for cells in zip_longest(*columns)]
    raise UserError(f"{file} must hold a list of rows or a list under each column's name.", "Write it as CSV.")
