"""A logger whose file survives a resume."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lightning_coba.errors import DamagedFileError, UserError
from lightning_coba.loggers.shown_step import shown_step
from lightning_coba.runs.files import RunFiles


class MetricsCSV(Logger):
    """Log scalars to one wide ``metrics.csv`` that a resumed run continues.

    Use it where Lightning's `CSVLogger` erases its file when the folder is opened again. The columns are
    `step`, then the metrics in order of appearance; a step has one row, whatever the number of calls that
    filled it; an empty cell was not logged, ``nan`` was. Numbers are written so that reading them gives the
    same bits. Steps count from 1, as everywhere in a run folder: the row of step n holds what was logged
    during the n-th optimizer step. Lightning passes loggers n - 1.

    The file is always readable: a row reaches the disk when the next step begins and whenever Lightning calls
    `save` (after every logging call), a new column replaces the file in one move, and a last line that a
    killed process left half-written is dropped when the file is opened again. Nothing is opened before the
    first row, and no handle is kept, so the logger may be pickled: where ranks are spawned, the first of them
    goes on with the file, and afterwards the process that started it. Only rank zero writes.

    Args:
        save_dir: The run folder; created when the first row is written. Its `metrics.csv` is continued if it
            exists.

    Example:
        >>> import tempfile
        >>> logger = MetricsCSV(tempfile.mkdtemp())
        >>> logger.log_metrics({"train_loss": 2.5}, step=0)
        >>> logger.log_metrics({"val_loss": 2.25}, step=0)
        >>> logger.log_metrics({"train_loss": 1.5}, step=1)
        >>> logger.save()
        >>> print(logger.path.read_text(), end="")
        step,train_loss,val_loss
        1,2.5,2.25
        2,1.5,
    """

    def __init__(self, save_dir: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = RunFiles(Path(save_dir)).metrics
        self._columns: list[str] = []  # as on disk; empty = not opened yet
        self._row: dict[str, str] = {}  # the last row of the file, open to more metrics of its step
        self._row_start = 0  # where that row begins in the file, bytes
        self._unsaved = False
        self._seen: tuple[int, int] | None = None  # size and time of the file as this object left it

    @property
    def name(self) -> str:
        """Empty, so that Lightning puts checkpoints into ``save_dir/checkpoints``."""
        return ""

    @property
    def version(self) -> str:
        """Empty, for the same reason: a run folder has no versions."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return self.save_dir

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder has `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add metrics to the row of a step.

        Args:
            metrics: Name -> scalar: a number or a tensor of one element. One called `step` yields to the
                argument.
            step: Optimizer steps made before this one, as Lightning counts; None = the step of the last row.
                Another step than the last row's begins a row.

        Raises:
            ValueError: A metric is no scalar.
        """
        cells = {name: _cell(name, value) for name, value in metrics.items()}
        if not cells:
            return
        self._open()
        number = self._row.get("step", "1") if step is None else str(shown_step(step))
        if self._row and self._row["step"] != number:
            self.save()
            self._row_start = self.path.stat().st_size
            self._row = {}
        self._row |= cells | {"step": number}
        self._unsaved = True

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Drop the rows behind a step, and the columns that only they filled: as if these were never logged.

        Call it when a run resumes from a checkpoint written after `step` optimizer steps: the run will log
        the rows that it drops again.
        """
        self._open()
        self.save()
        if not self.path.exists():
            return
        rows = [row for row in self._read()[1] if int(row["step"]) <= step]
        self._replace([name for name in self._columns if any(name in row for row in rows)], rows)

    @rank_zero_only
    def save(self) -> None:
        """Write the open row to disk; cheap where it has not changed."""
        if not self._unsaved:
            return
        added = [name for name in self._row if name not in self._columns]
        if added:
            self._replace([*self._columns, *added], [*self._read(end=self._row_start)[1], self._row])
        else:
            with self.path.open("r+b") as file:
                file.truncate(self._row_start)
                file.seek(self._row_start)
                file.write(_lines(self._columns, [self._row]))
        self._unsaved = False
        self._seen = self._stamp()

    def _open(self) -> None:
        """Continue the file of an earlier run, or of a rank that was spawned, less a half-written last line."""
        if not self._unsaved and self._stamp() != self._seen:
            self._replace(*self._read())
        self._columns = self._columns or ["step"]

    def _stamp(self) -> tuple[int, int] | None:
        if not self.path.exists():
            return None
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def _read(self, end: int | None = None) -> tuple[list[str], list[dict[str, str]]]:
        """Return the columns and the rows in the whole lines of the file's first `end` bytes, without empty cells."""
        content = self.path.read_bytes()[:end] if self.path.exists() else b""
        try:
            text = content[: content.rfind(b"\n") + 1].decode()
        except UnicodeDecodeError as error:
            where = f"{self.path}:{content[: error.start].count(10) + 1}"
            raise DamagedFileError("the file is damaged: this line is no text.", "Delete it.", where) from error
        reader = csv.DictReader(io.StringIO(text, newline=""))
        columns = list(reader.fieldnames or ["step"])
        if columns[0] != "step":
            raise UserError(
                f"`MetricsCSV.save_dir` must not hold another program's metrics.csv; got {self.path}, whose first "
                "column is not `step`.",
                "Move that file or choose another folder.",
            )
        rows = []
        for row in reader:
            if None in row or None in row.values() or not row["step"].lstrip("-").isdigit():
                raise UserError(
                    f"{self.path}:{reader.line_num}: a row must have as many cells as the header, the first a step.",
                    "Delete this line.",
                )
            rows.append({name: cell for name, cell in row.items() if cell})
        return columns, rows

    def _replace(self, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
        """Put a file with other columns or fewer rows in the place of the old one, in one move."""
        columns = list(columns) or ["step"]
        header = {name: name for name in columns}
        closed, last = _lines(columns, [header, *rows[:-1]]), _lines(columns, rows[-1:])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_bytes(closed + last)
        os.replace(part, self.path)
        self._columns, self._row, self._row_start = columns, dict(rows[-1]) if rows else {}, len(closed)
        self._seen = self._stamp()


def _cell(name: str, value: Any) -> str:
    try:
        return repr(float(value))
    except (TypeError, ValueError, RuntimeError):
        raise UserError(
            f"`MetricsCSV.log_metrics` must get scalars; got {type(value).__name__} for {name!r}.",
            "Log each of its numbers under a name of its own.",
        ) from None


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
