"""Settings to replay: from what a person types to balancers, and a grid where nothing was typed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from itertools import product
from typing import Any

import yaml

from lightning_coba import balancers
from lightning_coba.balancers import Balancer, CoBa
from lightning_coba.errors import UserError
from lightning_coba.reports.formats import as_typed

#: What is tried where nothing was asked for: windows, warm-ups, temperatures.
WINDOWS, WARMUPS, TEMPERATURES = (5, 10, 20), (2, 3, 5), (1.0, 5.0, 20.0)
#: Balancers by name, or balancers, which get names of their own.
Settings = Mapping[str, Balancer] | Iterable[Balancer] | Balancer
_SHORT = {"window_records": "window", "warmup_records": "warm-up", "block_records": "block", "initial_records": "first"}


def works_on_losses(balancer: Balancer) -> bool:
    """Return whether a log of one loss per task and record is all that a balancer needs."""
    return balancer.weighs == "tasks" and balancer.needs in (set(), {"losses"}, {"train_losses"})


def replayable() -> dict[str, type[Balancer]]:
    """Return the methods that a log of losses is enough for, by the name of their option ``balancer=``.

    Example:
        >>> sorted(replayable())[:3]
        ['coba', 'dwa', 'fixed']
    """
    found: dict[str, type[Balancer]] = {}
    for name in dir(balancers):
        method = getattr(balancers, name)
        if not (isinstance(method, type) and issubclass(method, Balancer) and is_dataclass(method)):
            continue
        # Only an instance tells what it needs; a method that must be given something first needs nothing else.
        if _required(method) or works_on_losses(method(**_starred(method))):
            found[name.lower() + "_star" * bool(_starred(method))] = method
    return found


def _starred(method: type[Balancer]) -> dict[str, Any]:
    """Return what makes a method work on held-out losses, where it can work on either."""
    return {"source": "held_out"} if hasattr(method, "source") else {}


def _fields(method: type[Balancer]) -> dict[str, Field[Any]]:
    """Return what can be set of a method."""
    return {field.name: field for field in fields(method) if field.name != "source"}  # type: ignore[arg-type]


def _required(method: type[Balancer]) -> list[str]:
    return [f.name for f in _fields(method).values() if f.default is MISSING and f.default_factory is MISSING]


def parse_settings(specs: Iterable[str] = (), grid: Mapping[str, Sequence[Any]] | Iterable[str] = ()) -> list[Balancer]:
    """Return balancers from text, as it is typed after ``coba-replay``.

    Args:
        specs: each a name of `replayable`, or a name with fields, such as ``"coba:window_records=5,form=mftcoder"``.
            None = CoBa.
        grid: values to try by field, such as ``"window_records=3,5,10"``; all combinations are tried of those fields
            that a method has.

    Raises:
        ValueError: a name, a field or a value is not legal; the message lists those that are.

    Example:
        >>> parse_settings(["uniform"], [])
        [Uniform()]
        >>> [b.window_records for b in parse_settings(["coba"], ["window_records=3,5"])]
        [3, 5]
    """
    chosen = [_chosen(text) for text in specs] or [(CoBa, {})]
    tried = dict(grid) if isinstance(grid, Mapping) else dict(map(_tried, grid))
    legal = {field: None for method, _ in chosen for field in _fields(method)}
    if unknown := [name for name in tried if name not in legal]:
        methods = ", ".join(dict.fromkeys(method.__name__ for method, _ in chosen))
        raise UserError(
            f"`--set` must name a field of {methods}; got {unknown[0]!r}.",
            f"The fields are: {', '.join(legal) or 'none'}.",
        )
    found = {}
    for method, options in chosen:
        names = [name for name in tried if name in _fields(method)]
        for values in product(*(tried[name] for name in names)):
            balancer = _made(method, options | dict(zip(names, values, strict=True)))
            found[repr(balancer)] = balancer
    return list(found.values())


def _chosen(text: str) -> tuple[type[Balancer], dict[str, Any]]:
    """Return the method that ``"coba:window_records=5,temperature=2"`` names, and its fields."""
    name, _, given = text.partition(":")
    legal = replayable()
    method = legal.get(name.lower()) or legal.get(f"{name.lower()}_star")
    if method is None:
        known = {known.lower() for known in dir(balancers)}
        why = " It needs more than a log of losses tells." if name.lower().removesuffix("_star") in known else ""
        raise UserError(
            f"`--balancer` must be one of {', '.join(sorted(legal))}; got {name!r}.{why} Choose one of these."
        )
    options = yaml.safe_load(f"{{{given.replace('=', ': ')}}}")
    if unknown := [field for field in options if field not in _fields(method)]:
        raise UserError(
            f"`--balancer {name}` has no field {unknown[0]!r}.",
            f"The fields are: {', '.join(_fields(method)) or 'none'}.",
        )
    return method, options


def _tried(text: str) -> tuple[str, list[Any]]:
    """Return the field that ``"window_records=3,5"`` names, and its values."""
    name, _, values = text.partition("=")
    if not name or not values:
        raise UserError(
            f"`--set` must be FIELD=VALUE,VALUE,...; got {text!r}.", "Type for example window_records=3,5,10."
        )
    return name, yaml.safe_load(f"[{values}]")


def _made(method: type[Balancer], options: Mapping[str, Any]) -> Balancer:
    if missing := [name for name in _required(method) if name not in options]:
        name = method.__name__.lower()
        raise UserError(
            f"`--balancer {name}` must be given {', '.join(missing)}.", f"Type for example {name}:{missing[0]}=[3,1]."
        )
    return method(**options, **_starred(method))


def default_settings(own: CoBa | None, num_records: int) -> dict[str, Balancer]:
    """Return what is worth trying on a run: its own setting, or the default, and a small grid around it.

    Windows longer than the run are alike, so only the shortest of them is tried; of warm-ups only those that end.

    Args:
        own: what the run was trained with; None = CoBa's defaults come first.
        num_records: T of the run.

    Returns:
        Balancers by name, the run's own first.

    Example:
        >>> list(default_settings(None, num_records=4))[:2]
        ['CoBa (default)', 'CoBa window 5, warm-up 2, temperature 1']
    """
    first = own or CoBa()
    windows = [window for window, shorter in zip(WINDOWS, (0, *WINDOWS), strict=False) if shorter < num_records]
    warmups = [warmup for warmup in WARMUPS if warmup < num_records]
    grid = [
        replace(first, window_records=window, warmup_records=warmup, temperature=temperature)
        for window, warmup, temperature in product(windows, warmups, TEMPERATURES)
        if first.form == "paper" or 3 <= warmup < window
    ]
    known = f"{describe(first)} ({'the run' if own else 'default'})"
    # What all of them have in common is in the name of the first alone.
    named = {describe(replace(balancer, significance=None)): balancer for balancer in grid if balancer != first}
    return {known: first, **named}


def name_settings(settings: Settings) -> Mapping[str, Balancer]:
    """Name settings by their method and what differs from its defaults; those that have names keep them.

    Example:
        >>> list(name_settings([CoBa(), CoBa(window_records=5)]))
        ['CoBa', 'CoBa window 5']
    """
    if isinstance(settings, Mapping):
        return settings
    return {describe(setting): setting for setting in ([settings] if isinstance(settings, Balancer) else settings)}


def describe(balancer: Balancer) -> str:
    """Return a method's name and those of its fields that differ from their defaults."""
    differing = []
    for name, field in _fields(type(balancer)).items():
        value = getattr(balancer, name)
        if value != field.default:
            shown = f"{value:g}" if isinstance(value, float) else as_typed(value)
            differing.append(f"{_SHORT.get(name, name)} {shown}")
    return f"{balancer.label} {', '.join(differing)}".strip()
