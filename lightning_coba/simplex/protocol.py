"""Who moves named shares, and how whoever shows them finds these."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lightning_coba.errors import UserError
from lightning_coba.log_keys import simplex_prefix
from lightning_coba.simplex.records import BalanceTable, Losses
from lightning_coba.simplex.trajectory import Trajectory

if TYPE_CHECKING:
    import lightning as L


@dataclass(frozen=True, eq=False)
class Simplex:
    """Hold named shares that move over time, with their records.

    Attributes:
        name: ``"balance"``, or what tells it from another of the run (a balancer's attribute, ``"objectives"``); it
            gives the name of its file, the prefix of what is logged, and titles.
        names: What has a share, in the order of every ``[K]`` tensor.
        trajectory: The records.
        thing: What the names are names of: ``"task"``, ``"objective"``, ``"component"``.
        losses: What the column ``loss`` holds: ``"validation"`` or ``"training"``.
        interval: Optimizer steps between two records; None = a record after each validation pass.

    Raises:
        ValueError: ``name`` cannot be part of a file's name.
    """

    name: str
    names: tuple[str, ...]
    trajectory: Trajectory
    thing: str = "task"
    losses: Losses = "validation"
    interval: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name):
            raise UserError(
                f"`Simplex.name` must consist of letters, digits, '_', '.' and '-'; got {self.name!r}.", "Rename it."
            )

    @property
    def num_records(self) -> int:
        """Records so far; it asks no device for values."""
        return self.trajectory.num_records

    @property
    def log_prefix(self) -> str:
        """Prefix of the keys under which it is logged: ``balance``, or ``balance/<name>``."""
        return simplex_prefix(self.name)

    def table(self) -> BalanceTable:
        """Return the records as a table; there must be one."""
        return BalanceTable.from_history(self.trajectory.columns(), self.names, self.thing)


@runtime_checkable
class MovesSimplex(Protocol):
    """A callback or module whose named shares move over time: weights of tasks, of objectives, of masks.

    What shows a run (progress bar, files, images, notebook) asks for them, and so serves any module that has this
    method.

    Example:
        >>> class Scheduled:
        ...     def __init__(self):
        ...         self.trajectory = Trajectory(2)
        ...     def simplexes(self):
        ...         return [Simplex("objectives", ("accuracy", "size"), self.trajectory, thing="objective")]
        >>> isinstance(Scheduled(), MovesSimplex)
        True
    """

    def simplexes(self) -> Sequence[Simplex]:
        """Return what it moves; empty where the names are not known yet."""
        ...


def simplexes_of(trainer: "L.Trainer", pl_module: "L.LightningModule", with_records: bool = True) -> list[Simplex]:
    """Return what the Trainer's callbacks move, in their order, and then what the module moves.

    Args:
        trainer: The Trainer whose callbacks are asked.
        pl_module: The module, asked last.
        with_records: Leave out what has no record yet.

    Raises:
        ValueError: Two of them have one name.
    """
    movers = [mover for mover in (*trainer.callbacks, pl_module) if isinstance(mover, MovesSimplex)]
    found = [simplex for mover in movers for simplex in mover.simplexes()]
    names = [simplex.name for simplex in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"`Simplex.name` must be given once in a run; got {twice} more than once.", "Rename one.")
    return [simplex for simplex in found if simplex.num_records or not with_records]
