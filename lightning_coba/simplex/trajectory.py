"""The records of a run as columns: kept by the callback, saved with it, written beside the run."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_coba.log_keys import BALANCE_COLUMNS

#: Per-task columns of a record, and those of them that are fields of the balancer's state, where it has them.
TASK_COLUMNS = ("loss", "ratio", "slope", "rcs", "acs", "weight")
STATE_FIELDS = ("slope", "rcs", "acs")
#: Records are moved to the host in blocks, so that a record taken in a training step waits for no device.
BLOCK = 64


class Trajectory:
    """Records as columns; ``values`` is ``[T, C, K]`` in the order of ``names``, NaN where not available.

    Args:
        num_tasks: K.
        signals: what else the balancer is shown, ``[K]`` a record: kept so that a run can be replayed.

    Attributes:
        names: ``TASK_COLUMNS`` and the signals.
    """

    def __init__(self, num_tasks: int, signals: Sequence[str] = ()) -> None:
        self.names = (*TASK_COLUMNS, *signals)
        self.steps: list[int] = []
        none = torch.empty(0, len(self.names), num_tasks, dtype=torch.float64)
        self._blocks: list[tuple[Tensor, Tensor]] = [(none, none.new_empty(0))]
        self._pending: list[tuple[Tensor, Tensor]] = []

    def append(
        self,
        step: int,
        losses: Tensor,
        ratios: Tensor,
        state: Any,
        weights: Tensor,
        signals: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add the record that led to ``state`` and, with prior and floor, to ``weights``."""
        unknown = torch.full_like(weights, torch.nan)
        known = {"loss": losses.to(weights), "ratio": ratios, "weight": weights, **(signals or {})}
        known |= {field: getattr(state, field, unknown) for field in STATE_FIELDS}
        self.steps.append(step)
        factor = getattr(state, "divergence_factor", unknown[0])
        self._pending.append((torch.stack([known[column] for column in self.names]), factor))
        if len(self._pending) >= BLOCK:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            values, factors = zip(*self._pending, strict=True)
            self._blocks.append((torch.stack(values).cpu(), torch.stack(factors).cpu()))
            self._pending = []

    def _whole(self) -> tuple[Tensor, Tensor]:
        self._flush()
        values, factors = zip(*self._blocks, strict=True)
        self._blocks = [(torch.cat(values), torch.cat(factors))]
        return self._blocks[0]

    def columns(self) -> dict[str, Any]:
        """Return ``record`` and ``step`` (lists of T), ``divergence_factor`` ``[T]``, and the rest ``[T, K]``."""
        values, factors = self._whole()
        table: dict[str, Any] = {"record": list(range(1, len(self.steps) + 1)), "step": list(self.steps)}
        table |= {column: values[:, i] for i, column in enumerate(self.names)}
        return table | {"divergence_factor": factors}

    def state_dict(self) -> dict[str, Any]:
        """Return lists and tensors only."""
        values, factors = self._whole()
        return {"steps": list(self.steps), "values": values, "factors": factors}

    def load_state_dict(self, state: dict[str, Any], columns: Sequence[int | None]) -> None:
        """Continue a saved trajectory whose task ``columns[i]`` is now task i (None: the task is new)."""
        self.steps = list(state["steps"])
        shape = (len(self.steps), len(self.names), len(columns))
        values = torch.full(shape, torch.nan, dtype=torch.float64)
        for i, column in enumerate(columns):
            if column is not None:
                values[:, :, i] = state["values"][:, :, column]
        self._blocks = [(values, state["factors"].clone())]
        self._pending = []


def csv_rows(history: dict[str, Any], tasks: Sequence[str], first: int = 0) -> list[list[str]]:
    """Return the rows of ``balance.csv`` from record index ``first`` on, one a record and task."""
    rows = []
    for t in range(first, len(history["record"])):
        factor = history["divergence_factor"][t].item()
        for k, task in enumerate(tasks):
            cell = {column: history[column][t, k].item() for column in TASK_COLUMNS} | {"divergence_factor": factor}
            named = {"record": history["record"][t], "step": history["step"][t], "task": task}
            rows.append([str(named[c]) if c in named else _cell(cell[c]) for c in BALANCE_COLUMNS])
    return rows


def _cell(value: float) -> str:
    return "" if value != value else repr(value)


def write_csv(path: Path, rows: list[list[str]], append: bool) -> None:
    """Write rows of ``balance.csv``: appended, or as a whole new file that replaces the old one at once."""
    if append:
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".csv.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(BALANCE_COLUMNS), *rows])
    os.replace(partial, path)
