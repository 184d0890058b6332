"""What hyper-parameters must be, and those given per task: every balancer says it with these."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_coba.errors import UserError


def check_number(
    name: str, value: Any, at_least: float | None = None, above: float | None = None, below: float | None = None
) -> None:
    """Raise ValueError unless ``value`` is a finite number in its domain.

    Args:
        name: as the user wrote it, such as ``FAMO.lr``.
        value: to check.
        at_least: smallest value allowed.
        above: value that it must exceed.
        below: value that it must not reach.
    """
    domain = "a finite number"
    domain += f" >= {at_least:g}" if at_least is not None else ""
    domain += f" > {above:g}" if above is not None else ""
    domain += f" and < {below:g}" if below is not None else ""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    fits = fits and (at_least is None or value >= at_least) and (above is None or value > above)
    if not fits or (below is not None and value >= below):
        raise UserError(f"`{name}` must be {domain}; got {value!r}.")


def check_count(name: str, value: Any, at_least: int = 1) -> None:
    """Raise ValueError unless ``value`` is an integer of at least ``at_least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise UserError(f"`{name}` must be an integer >= {at_least}; got {value!r}.")


def check_source(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` names where losses come from."""
    if value not in ("train", "held_out"):
        raise UserError(f'`{name}` must be "train" or "held_out"; got {value!r}.')


def numbers(given: Any) -> list[Any]:
    """Return as a list what was given in task order, by task name, as one number for all, or not at all (None)."""
    if given is None or isinstance(given, int | float):
        return [] if given is None else [given]
    return list(given.values() if isinstance(given, Mapping) else given)


def in_task_order(name: str, given: Any, tasks: Sequence[str]) -> Any:
    """Return numbers given by task name in task order, and whatever was not given by name as it is.

    Raises:
        ValueError: if the names are not those of the tasks.
    """
    if not isinstance(given, Mapping):
        return given
    if set(given) != set(tasks):
        raise UserError(
            f"`{name}` must name every task once; got {sorted(given)}.", f"The tasks are: {', '.join(tasks)}."
        )
    return tuple(float(given[task]) for task in tasks)
