"""The records of a simplex as a table: taken from who moves it, or read from the file of a run."""

import csv
import io
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.log_keys import BALANCE
from lightning_coba.user_files import read_text, shown

#: What the column ``loss`` holds: losses on validation rows, or those of training steps.
Losses = Literal["validation", "training"]
#: What 64 bits hold.
_INTEGER = re.compile(r"-?[0-9]{1,18}")
BALANCE_FILE = f"{BALANCE}.csv"
#: What tables and figures know of each name. A record has ``weight``, its share, and of the others what there is.
PER_TASK_COLUMNS = ("loss", "ratio", "slope", "rcs", "acs", "weight")


@dataclass(frozen=True, eq=False)
class BalanceTable:
    """Hold the records of a run as columns: what the tasks lost, what the balancer made of it.

    Row t of every array is the t-th record; column k is the task ``tasks[k]``. NaN = not available: an absent
    task, a balancer without scores, a record of the warm-up. A table of other shares (weights of objectives, say) has
    their names for ``tasks`` and is NaN wherever it holds no such number.

    Attributes:
        tasks: The K names, of tasks unless ``thing`` says otherwise.
        records: ``[T]`` int64, record numbers, strictly increasing.
        steps: ``[T]`` int64, optimizer steps at which the records were taken; a second fit starts over.
        loss: ``[T, K]`` float64, held-out loss in nats per completion token.
        ratio: ``[T, K]``, loss / V(0); below 1 is better than before training.
        slope: ``[T, K]``, change of the ratio per record within the window; negative = the task still
            improves.
        rcs: ``[T, K]``, relative convergence score; each row sums to 1.
        acs: ``[T, K]``, absolute convergence score; each row sums to 1.
        weight: ``[T, K]``, weights in force after the record; each row sums to 1.
        divergence_factor: ``[T]``, the share of RCS in the weights; ACS has the rest.
        thing: What the names are names of.
    """

    tasks: list[str]
    records: NDArray[np.int64]
    steps: NDArray[np.int64]
    loss: NDArray[np.float64]
    ratio: NDArray[np.float64]
    slope: NDArray[np.float64]
    rcs: NDArray[np.float64]
    acs: NDArray[np.float64]
    weight: NDArray[np.float64]
    divergence_factor: NDArray[np.float64]
    thing: str = "task"

    @classmethod
    def from_history(cls, history: Mapping[str, Any], tasks: Sequence[str], thing: str = "task") -> Self:
        """Take the records from a balancing callback, with no file in between.

        Use it in a notebook: ``weights_figure(BalanceTable.from_history(callback.history, callback.tasks))``.

        Args:
            history: ``callback.history``: lists or tensors by column name, ``[T]`` or ``[T, K]``. ``record``, ``step``
                and ``weight`` must be there.
            tasks: ``callback.tasks``, the K names in column order.
            thing: What the names are names of.

        Returns:
            The table, T >= 1 records of K >= 1 names.

        Raises:
            ValueError: There is no record yet, or the number of names is not that of the columns.

        Example:
            >>> from lightning_coba.balancers import replay, Uniform
            >>> history = {"record": [1], "step": [50], "weight": replay(Uniform(), [[0.8, 0.9]])}
            >>> table = BalanceTable.from_history(history, ["code", "qa"])
            >>> table.weight.tolist(), table.loss.tolist()
            ([[0.5, 0.5]], [[nan, nan]])
        """
        if not len(history["record"]):
            raise UserError(
                "`from_history.history` must hold a record; got none.", "Wait for the first validation pass."
            )
        weight = np.asarray(history["weight"], dtype=np.float64)
        if weight.shape[1] != len(tasks):
            raise UserError(
                f"`from_history.tasks` must name the {weight.shape[1]} {thing}s of the history; got "
                f"{', '.join(tasks) or 'none'}.",
                "Give `callback.tasks`.",
            )
        none = np.full_like(weight, np.nan)
        table = {name: np.asarray(history.get(name, none), dtype=np.float64) for name in PER_TASK_COLUMNS}
        return cls(
            tasks=list(tasks),
            records=np.asarray(history["record"], dtype=np.int64),
            steps=np.asarray(history["step"], dtype=np.int64),
            **table,
            divergence_factor=np.asarray(history.get("divergence_factor", none[:, 0]), dtype=np.float64),
            thing=thing,
        )


class _Row(NamedTuple):
    """One line of the file: one name of one record."""

    where: str  # "file:line", the beginning of every complaint
    record: int
    step: int
    name: str
    values: dict[str, float]


def read_balance(path: str | os.PathLike[str]) -> BalanceTable:
    r"""Read the balancer's records of a run.

    Use it on a finished run or on one still under way.

    Args:
        path: A run folder, or its ``balance.csv``, or the file of another simplex: one row per name and record, the
            rows of a record in one order. The header begins with ``record,step`` and what the names are names of, and
            holds ``weight``; the other columns of a :class:`BalanceTable` are NaN where the file lacks them. Later
            records may add names at the end (``strict_tasks=False``); these are NaN before.

    Returns:
        The table, T >= 1 records of K >= 1 names.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is malformed or holds no record. The message names the file and the line.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> rows = ["1,50,code,1.2,0.8,0.5", "1,50,qa,2.7,0.9,0.5"]
        >>> _ = (folder / "balance.csv").write_text("\n".join(["record,step,task,loss,ratio,weight", *rows, ""]))
        >>> balance = read_balance(folder)
        >>> balance.tasks, balance.ratio.tolist(), balance.rcs.tolist()
        (['code', 'qa'], [[0.8, 0.9]], [[nan, nan]])
    """
    file = Path(path)
    if file.is_dir():
        file = file / BALANCE_FILE
    if not file.is_file():
        raise MissingFileError(
            f"`read_balance.path` must be a run folder or its {BALANCE_FILE}; got {file}, which does not exist.",
            "Give the folder of a run that had a balancer.",
        )
    csv.field_size_limit(sys.maxsize)  # the one error of a reader that is not strict
    reader = csv.reader(io.StringIO(read_text(file), newline=""))
    header = _header(file, next(reader, []))
    records = [list(rows) for _, rows in groupby(_rows(file, reader, header), key=lambda row: row.record)]
    if not records:
        raise UserError("the file holds no record yet.", "Wait for the run's first validation pass.", where=str(file))
    thing = header[2]
    _check_order(records, thing)
    names = [row.name for row in records[-1]]

    def column(name: str) -> NDArray[np.float64]:
        table = np.full((len(records), len(names)), np.nan)
        for t, rows in enumerate(records):
            table[t, : len(rows)] = [row.values.get(name, math.nan) for row in rows]
        return table

    return BalanceTable(
        tasks=names,
        records=np.array([rows[0].record for rows in records], dtype=np.int64),
        steps=np.array([rows[0].step for rows in records], dtype=np.int64),
        **{name: column(name) for name in PER_TASK_COLUMNS},
        divergence_factor=column("divergence_factor")[:, 0],
        thing=thing,
    )


def _header(file: Path, header: list[str]) -> list[str]:
    if header[:2] != ["record", "step"] or "weight" not in header[3:]:
        raise UserError(
            "the header must be record,step,task (or another word for what has a weight), and further columns with "
            f"weight among them; got {shown(','.join(header))}.",
            "Give a file that a run of lightning_coba wrote.",
            where=f"{file}:1",
        )
    return header


def _rows(file: Path, reader: Any, header: Sequence[str]) -> Iterator[_Row]:
    known = {"divergence_factor", *PER_TASK_COLUMNS}
    for cells in reader:
        where = f"{file}:{reader.line_num}"
        if len(cells) != len(header):
            raise UserError(
                f"a row must have {len(header)} cells; got {len(cells)}.",
                "If the run was killed while it wrote, delete this record's rows.",
                where=where,
            )
        record, step, name, *rest = cells
        named = zip(header[3:], rest, strict=True)
        yield _Row(
            where,
            record=_integer(record, "record", where),
            step=_integer(step, "step", where),
            name=name,
            values={column: _number(cell, column, where) for column, cell in named if column in known},
        )


def _integer(cell: str, column: str, where: str) -> int:
    if _INTEGER.fullmatch(cell) is None:
        raise UserError(f"`{column}` must be a whole number; got {shown(cell)}.", "Correct the row.", where=where)
    return int(cell)


def _number(cell: str, column: str, where: str) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        raise UserError(
            f"`{column}` must be a number, or empty where not available; got {shown(cell)}.",
            "Correct the row.",
            where=where,
        ) from None


def _check_order(records: list[list[_Row]], thing: str) -> None:
    """Refuse what would put a number under the wrong name or record."""
    known: list[str] = []
    for previous, rows in zip([None, *records], records, strict=False):
        first, names = rows[0], [row.name for row in rows]
        if names[: len(known)] != known or len(set(names)) < len(names):
            raise UserError(
                f"record {first.record} must list each {thing} once, in the order of the records before "
                f"({', '.join(known) or 'none'}); got {', '.join(names)}.",
                "Delete or complete its rows.",
                where=f"{first.where}",
            )
        for row in rows:
            if row.step != first.step:
                raise UserError(
                    f"record {row.record} must have one step; got {row.step}, {first.step}.",
                    "Correct the row.",
                    where=f"{row.where}",
                )
        # Steps may start over, in a second fit; records never do.
        if previous and first.record < previous[0].record:
            raise UserError(
                f"records must increase; got {first.record} after {previous[0].record}.",
                "Delete the rows that an earlier run left behind.",
                where=f"{first.where}",
            )
        known = names
