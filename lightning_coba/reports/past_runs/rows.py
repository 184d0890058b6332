"""What every record of a past run is turned into before tasks are looked for: rows of named values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning_coba.errors import UserError
from lightning_coba.reports.formats import listed
from lightning_coba.reports.past_runs.names import held_out_families

_ABSENT = {"", "nan", "none", "null", "na", "n/a", "-"}


class Row(NamedTuple):
    """One thing that was logged.

    Attributes:
        where: The place a complaint names, such as "log.csv:12".
        run: Which run it belongs to, "" where its source holds one.
        values: Name -> number or text, steps and times included.
    """

    where: str
    run: str
    values: Mapping[str, Any]

    def holds_number(self, column: str) -> bool:
        """Return whether a column holds a finite number here."""
        cell = number(self.values.get(column))
        return cell is not None and math.isfinite(cell)


class Log(NamedTuple):
    """The rows of a source.

    Attributes:
        name: The file or folder, for messages.
        rows: In the order in which they were logged.
        bare: Whether a column may be named as a task alone, "code" instead of "val_loss/code".
        notes: What a reader of the result should know about the reading.
    """

    name: str
    rows: Sequence[Row]
    bare: bool = False
    notes: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """Names of all values, in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row.values))

    def of_run(self, run: str | None) -> "Log":
        """Return the rows of one run: the one named, or the only one that holds held-out losses.

        Raises:
            ValueError: There is no such run, or there are several to choose from.
        """
        runs = {name: self._only(name) for name in dict.fromkeys(row.run for row in self.rows)}
        if run is not None:
            found = [name for name in runs if name == run] or [name for name in runs if name.startswith(run)]
            if len(found) != 1:
                raise UserError(
                    f"`read_losses.run` must name one run of {self.name}, or how its name begins; got {run!r}.",
                    f"The runs are: {listed(map(repr, runs), 20)}.",
                )
            return runs[found[0]]
        if len(runs) > 1:
            runs = {name: log for name, log in runs.items() if held_out_families(log.columns)} or runs
        if len(runs) > 1:
            raise UserError(
                f"{self.name} holds {len(runs)} runs: {listed(map(repr, runs), 20)}.",
                f"Choose one: --run {next(iter(runs))!r}",
            )
        return next(iter(runs.values()), self)

    def _only(self, run: str) -> "Log":
        named = [f"Run: {run}."] if run else []
        return self._replace(rows=[row for row in self.rows if row.run == run], notes=[*self.notes, *named])


def number(value: Any) -> float | None:
    """Return a cell as a number; NaN where it is empty or says that it is, None where it is text.

    Example:
        >>> number(" 1.5 "), number(""), number("one")
        (1.5, nan, None)
    """
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _ABSENT):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf
    except (TypeError, ValueError):
        return None
