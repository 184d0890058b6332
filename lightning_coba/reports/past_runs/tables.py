"""Read tables of a past run: CSV, TSV, JSON, JSON lines and Parquet, as people and tracking tools write them."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_coba.reports.past_runs.rows import STEP_COLUMNS, Log, Row, held_out_families, is_held_out

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
#: Columns of a long table: which quantity a row is about, its value, and the run.
_QUANTITY = ("task", "key", "metric", "metric_name", "name", "tag")
_VALUE = ("loss", "val_loss", "eval_loss", "value")
_LIMITS = ("__MIN", "__MAX")
_RUN = ("run", "run_id", "run_name", "run_uuid")
_SPLIT = ("split", "phase", "stage", "subset")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(?:[eE][+-]?\d+)?\s*")


def read_table(file: Path) -> Log:
    """Read a file with a column a task, or with a row a task and step.

    Raises:
        ValueError: it is no table, or empty; the message names the line.
    """
    cells = list(_cells(file))
    if not cells:
        raise ValueError(f"{file} holds no row. Give a file with a row a validation pass.")
    columns = list(dict.fromkeys(name for _, values in cells for name in values))
    if charted := _chart_columns(columns):
        return Log(
            str(file), list(_chart_rows(cells, charted)), notes=["Columns of a W&B chart, min and max left out."]
        )
    if long := _long_columns(columns):
        cells, notes = _of_held_out(cells, columns)
        return Log(str(file), list(_long_rows(cells, long)), long["quantity"].strip("_").lower() == "task", notes)
    if {name.lower() for name in columns} == {"wall time", "step", "value"}:
        raise ValueError(
            f"{file} holds one metric, as the TensorBoard page saves it, and no name of a task. Give the folder of "
            "the event files instead."
        )
    if "run_id" in columns and any(name.startswith("metrics.") for name in columns):
        raise ValueError(
            f"{file} holds each run's last value of a metric, not its history. Give the mlruns folder or mlflow.db, or "
            "the CSV of a metric's chart in the MLflow page."
        )
    run = next((name for name in columns if name.lower() in _RUN), None)
    rows = [Row(where, str(values.get(run, "")) if run else "", _without(values, run)) for where, values in cells]
    return Log(str(file), rows, bare=True)


def trainer_state(file: Path) -> Log:
    """Read the history that the Trainer of transformers leaves in each checkpoint."""
    history = _json(file).get("log_history", [])
    return Log(str(file), [Row(f"{file}, entry {i}", "", entry) for i, entry in enumerate(history, 1)])


def _without(values: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _cells(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place and the cells of every row."""
    suffix = file.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        yield from _csv(file)
    elif suffix in (".jsonl", ".ndjson"):
        for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if text.strip():
                yield f"{file}:{line}", _flat(_object(text, f"{file}:{line}"))
    elif suffix == ".json":
        for index, values in enumerate(_json_rows(file), 1):
            yield f"{file}, row {index}", _flat(values)
    elif suffix == ".parquet":
        from pyarrow import parquet

        for index, values in enumerate(parquet.read_table(file).to_pylist(), 1):
            yield f"{file}, row {index}", _flat(values)
    else:
        raise ValueError(f"`read_losses.path` must end in one of {', '.join(SUFFIXES)}; got {file}. Convert it to CSV.")


def _csv(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be text in UTF-8; got {error}. Save it as 'CSV UTF-8'.") from None
    head = text.partition("\n")[0]
    separator = max("\t,;", key=head.count) if head.strip() else ","
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    columns = [name.strip() for name in next(reader, [])]
    if twice := [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]:
        raise ValueError(f"{file}:1: each column must have a name of its own; {twice[0]!r} is there twice. Rename one.")
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise ValueError(
                f"{file}:{reader.line_num}: a row must have as many cells as the header, {len(columns)}; got "
                f"{len(cells)}. Complete or delete the line."
            )
        values = {name: cell for name, cell in zip(columns, cells, strict=True) if name}
        if separator != ",":  # as spreadsheets write numbers where the comma separates decimals
            values = {name: _with_point(cell) for name, cell in values.items()}
        yield f"{file}:{reader.line_num}", values


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell


def _json(file: Path) -> Any:
    return _parsed(file.read_text(encoding="utf-8"), str(file))


def _object(text: str, where: str) -> Mapping[str, Any]:
    found = _parsed(text, where)
    if not isinstance(found, dict):
        raise ValueError(f"{where}: a line must be a JSON object; got {text[:40]!r}. Correct it.")
    return found


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: this is no JSON ({error}). Correct or delete it.") from None


def _json_rows(file: Path) -> list[Mapping[str, Any]]:
    """Return the rows of a JSON file: a list of rows, or lists (or mappings by row) under each column's name."""
    found = _json(file)
    if isinstance(found, dict) and isinstance(found.get("log_history"), list):
        found = found["log_history"]
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return found
    if isinstance(found, dict) and found and all(isinstance(column, list | dict) for column in found.values()):
        by_row = {
            name: dict(enumerate(column)) if isinstance(column, list) else column for name, column in found.items()
        }
        indices = dict.fromkeys(index for column in by_row.values() for index in column)
        return [{name: column.get(index) for name, column in by_row.items()} for index in indices]
    raise ValueError(f"{file} must hold a list of rows or a list under each column's name. Write it as CSV.")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under names with slashes."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _chart_columns(columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return column -> (run, metric) where the columns are those of a chart that the W&B page exports."""
    charted = [name for name in columns if " - " in name]
    if not charted or not (len(charted) == len(columns) - 1 or any(name.endswith(_LIMITS) for name in columns)):
        return {}
    found = {}
    for name in (name for name in charted if not name.endswith(_LIMITS)):
        # The run's name may hold the separator itself; metrics do not.
        run, _, metric = name.rpartition(" - ")
        found[name] = (re.sub("^Group: ", "", run), metric)
    return found


def _chart_rows(
    cells: Sequence[tuple[str, Mapping[str, Any]]], charted: Mapping[str, tuple[str, str]]
) -> Iterator[Row]:
    by_run: dict[str, dict[str, str]] = {}
    for column, (run, metric) in charted.items():
        by_run.setdefault(run, {})[metric] = column
    for where, values in cells:
        steps = {name: value for name, value in values.items() if name.lower() in STEP_COLUMNS}
        for run, metrics in by_run.items():
            yield Row(where, run, steps | {metric: values.get(column) for metric, column in metrics.items()})


def _long_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return the columns of a long table by what they are; empty where the table is none."""
    plain = {name.strip("_ ").lower(): name for name in columns}
    quantity = next((plain[name] for name in _QUANTITY if name in plain), None)
    value = next((plain[name] for name in _VALUE if name in plain), None)
    if quantity is None or value is None or held_out_families(columns):
        return {}
    run = next((plain[name] for name in _RUN if name in plain), "")
    return {"quantity": quantity, "value": value, "run": run}


def _of_held_out(
    cells: list[tuple[str, Mapping[str, Any]]], columns: Sequence[str]
) -> tuple[list[tuple[str, Mapping[str, Any]]], list[str]]:
    """Return the rows that a column such as ``split`` calls held-out; all of them where none is called that."""
    split = next((name for name in columns if name.strip().lower() in _SPLIT), None)
    kept = [(where, values) for where, values in cells if split and is_held_out(str(values.get(split) or ""))]
    if not kept or len(kept) == len(cells):
        return cells, []
    return kept, [f"{len(cells) - len(kept)} rows left out whose `{split}` is not of validation."]


def _long_rows(cells: Sequence[tuple[str, Mapping[str, Any]]], long: Mapping[str, str]) -> Iterator[Row]:
    for where, values in cells:
        name = str(values.get(long["quantity"]) or "").strip()
        if not name:
            raise ValueError(
                f"{where}: column `{long['quantity']}` must name a task or metric; got nothing. Fill it in."
            )
        counts = {key.lstrip("_"): value for key, value in values.items() if key.lstrip("_").lower() in STEP_COLUMNS}
        run = str(values.get(long["run"], "")) if long["run"] else ""
        yield Row(where, run, counts | {name: values.get(long["value"])})
