"""The records of a simplex as a CSV file that grows with the run; ``records.py`` reads it."""

import csv
import os
from pathlib import Path

from lightning_coba.simplex.protocol import Simplex


def write_records(simplex: Simplex, path: Path, written: int | None = None) -> int:
    """Write the records that a file lacks: one row per record and name, the share last.

    Args:
        simplex: What the records are of.
        path: The file; its folder is created if need be.
        written: Records that the file holds, to which the others are appended. None = write all of them to a new
            file, which then replaces an old one in one move.

    Returns:
        Number of records that the file holds now.
    """
    rows = _rows(simplex, written or 0)
    if written is not None:
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        return simplex.num_records
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["record", "step", simplex.thing, *_columns(simplex)], *rows])
    os.replace(partial, path)
    return simplex.num_records


def _columns(simplex: Simplex) -> list[str]:
    columns = [name for name in simplex.trajectory.written if name != "weight"]
    return [*columns, *simplex.trajectory.scalar_names, "weight"]


def _rows(simplex: Simplex, first: int) -> list[list[str]]:
    history, columns = simplex.trajectory.columns(), _columns(simplex)
    rows = []
    for t in range(first, simplex.num_records):
        values = {name: history[name][t].expand(len(simplex.names)).tolist() for name in columns}
        begin = [str(history["record"][t]), str(history["step"][t])]
        for k, name in enumerate(simplex.names):
            rows.append([*begin, name, *(_cell(values[column][k]) for column in columns)])
    return rows


def _cell(value: float) -> str:
    return "" if value != value else repr(value)
