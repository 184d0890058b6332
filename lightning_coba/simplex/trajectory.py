"""The records of a simplex as columns: kept by whoever moves it, and saved with it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_coba.errors import UserError

#: Records are moved to the host in blocks, so that a record taken in a training step waits for no device.
BLOCK = 64


class Trajectory:
    """Hold records as columns in float64; NaN where a value is not available.

    Args:
        num_names: K, how many names have a share.
        columns: What a record holds for each name; ``weight``, the share, must be among them.
        scalars: What a record holds once.
        unwritten: Further columns, kept so that a run can be replayed, and not written to files.

    Raises:
        ValueError: ``columns`` lacks ``weight``.

    Example:
        >>> trajectory = Trajectory(2, columns=("loss", "weight"))
        >>> trajectory.append(50, {"weight": torch.tensor([0.25, 0.75])})
        >>> trajectory.columns()["weight"].tolist(), trajectory.columns()["loss"].tolist()
        ([[0.25, 0.75]], [[nan, nan]])
    """

    def __init__(
        self,
        num_names: int,
        columns: Sequence[str] = ("weight",),
        scalars: Sequence[str] = (),
        unwritten: Sequence[str] = (),
    ) -> None:
        if "weight" not in columns:
            raise UserError(f"`Trajectory.columns` must hold 'weight'; got {', '.join(columns) or 'none'}.", "Add it.")
        self.written = tuple(columns)
        self.scalar_names = tuple(scalars)
        self.column_names = (*columns, *unwritten)
        self.steps: list[int] = []
        none = torch.empty(0, len(self.column_names), num_names, dtype=torch.float64)
        self._blocks: list[tuple[Tensor, Tensor]] = [(none, none.new_empty(0, len(self.scalar_names)))]
        self._pending: list[tuple[Tensor, Tensor]] = []

    def append(self, step: int, columns: Mapping[str, Tensor], scalars: Mapping[str, Tensor] | None = None) -> None:
        """Add a record, without waiting for the device.

        Args:
            step: Optimizer step at which the record was taken.
            columns: Column -> ``[K]``, in the order of the names; one that is left out is NaN.
            scalars: Name -> scalar tensor; one that is left out is NaN.

        Raises:
            KeyError: ``weight`` is left out, or a name is no column of this trajectory.
        """
        weight, scalars = columns["weight"].detach(), scalars or {}
        if unknown := [*(columns.keys() - set(self.column_names)), *(scalars.keys() - set(self.scalar_names))]:
            raise KeyError(
                f"{unknown} are no columns of this trajectory: {', '.join((*self.column_names, *self.scalar_names))}."
            )
        missing = torch.full_like(weight, torch.nan)
        values = torch.stack([columns.get(name, missing).detach().to(weight) for name in self.column_names])
        once = [scalars.get(name, missing[0]).detach().to(weight) for name in self.scalar_names]
        self.steps.append(step)
        self._pending.append((values, torch.stack(once) if once else weight.new_empty(0)))
        if len(self._pending) >= BLOCK:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            values, scalars = zip(*self._pending, strict=True)
            self._blocks.append((torch.stack(values).cpu().double(), torch.stack(scalars).cpu().double()))
            self._pending = []

    def _whole(self) -> tuple[Tensor, Tensor]:
        self._flush()
        values, scalars = zip(*self._blocks, strict=True)
        self._blocks = [(torch.cat(values), torch.cat(scalars))]
        return self._blocks[0]

    @property
    def num_records(self) -> int:
        """Records so far; it asks no device for values."""
        return len(self.steps)

    def columns(self) -> dict[str, Any]:
        """Return ``record`` and ``step`` (lists of T), each column ``[T, K]`` and each scalar ``[T]``."""
        values, scalars = self._whole()
        table: dict[str, Any] = {"record": list(range(1, len(self.steps) + 1)), "step": list(self.steps)}
        table |= {column: values[:, i] for i, column in enumerate(self.column_names)}
        return table | {name: scalars[:, i] for i, name in enumerate(self.scalar_names)}

    def state_dict(self) -> dict[str, Any]:
        """Return lists and tensors only: Lightning loads with ``weights_only=True``."""
        values, scalars = self._whole()
        return {
            "steps": list(self.steps),
            "columns": list(self.column_names),
            "values": values,
            "scalar_columns": list(self.scalar_names),
            "scalars": scalars,
        }

    def load_state_dict(self, state: Mapping[str, Any], columns: Sequence[int | None]) -> None:
        """Continue a saved trajectory whose name ``columns[i]`` is now name i (None: the name is new).

        A column that the saved one lacks is NaN up to here; what it has beyond ours is dropped.
        """
        if "factors" in state:  # written by 0.4, which knew no other scalar and did not name its columns
            named = {"columns": list(self.column_names), "scalar_columns": ["divergence_factor"]}
            state = {**state, **named, "scalars": state["factors"][:, None]}
        self.steps = list(state["steps"])
        values = torch.full((len(self.steps), len(self.column_names), len(columns)), torch.nan, dtype=torch.float64)
        kept = [i for i, before in enumerate(columns) if before is not None]
        before = [column for column in columns if column is not None]
        for i, name in enumerate(self.column_names):
            if name in state["columns"]:
                values[:, i, kept] = state["values"][:, state["columns"].index(name), before]
        scalars = torch.full((len(self.steps), len(self.scalar_names)), torch.nan, dtype=torch.float64)
        for i, name in enumerate(self.scalar_names):
            if name in state["scalar_columns"]:
                scalars[:, i] = state["scalars"][:, state["scalar_columns"].index(name)]
        self._blocks = [(values, scalars)]
        self._pending = []
