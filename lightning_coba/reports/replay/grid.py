"""Settings to replay: from what a person types to balancers, and a grid where nothing was typed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from itertools import product
from typing import Any

import yaml

from lightning_coba import balancers
from lightning_coba.balancers import Balancer, CoBa

#: What is tried where nothing was asked for: windows, warm-ups, temperatures.
WINDOWS, WARMUPS, TEMPERATURES = (5, 10, 20), (2, 3, 5), (1.0, 5.0, 20.0)
_SHORT = {"window_records": "window", "warmup_records": "warm-up", "block_records": "block", "initial_records": "first"}


def replayable() -> dict[str, type[Balancer]]:
    """Return the methods that a log of losses is enough for, by the name of their option ``balancer=``.

    Example:
        >>> sorted(replayable())[:3]
        ['coba', 'dwa', 'fixed']
    """
    found: dict[str, type[Balancer]] = {}
    for name in balancers.__all__:
        method = getattr(balancers, name)
        if not (isinstance(method, type) and issubclass(method, Balancer) and is_dataclass(method)):
            continue
        if method.weighs == "tasks" and _needs(method) in (frozenset(), {"losses"}, {"train_losses"}):
            found[name.lower() + "_star" * bool(_starred(method))] = method
    return found


def _needs(method: type[Balancer]) -> frozenset[str]:
    if _required(method):  # only an instance tells, but what has no rule of its own for it needs nothing
        return frozenset() if method.needs is Balancer.needs else frozenset({"more"})
    return method(**_starred(method)).needs


def _starred(method: type[Balancer]) -> dict[str, Any]:
    """Return what makes a method work on held-out losses, where it can work on either."""
    return {"source": "held_out"} if any(field.name == "source" for field in _all_fields(method)) else {}


def _required(method: type[Balancer]) -> list[str]:
    return [f.name for f in _all_fields(method) if f.default is MISSING and f.default_factory is MISSING]


def _all_fields(method: type[Balancer]) -> tuple[Field[Any], ...]:
    return fields(method)  # type: ignore[arg-type]  # every balancer is a dataclass


def parse_settings(specs: Iterable[str] = (), grid: Mapping[str, Sequence[Any]] | Iterable[str] = ()) -> list[Balancer]:
    """Return balancers from text, as it is typed after ``coba-replay``.

    Args:
        specs: each a name of `replayable`, or a name with fields, such as ``"coba:window_records=5,form=mftcoder"``;
            several may be joined with commas. None = CoBa.
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
    chosen = [_balancer(*spec) for text in specs for spec in _specs(text)] or [(CoBa, {})]
    tried = dict(grid) if isinstance(grid, Mapping) else dict(_grid_line(text) for text in grid)
    for name in tried:
        if not any(name in _fields(method) for method, _ in chosen):
            legal = {field: None for method, _ in chosen for field in _fields(method)}
            raise ValueError(
                f"`--set` must name a field of {_names(method for method, _ in chosen)}; got {name!r}. The fields are: "
                f"{', '.join(legal) or 'none'}."
            )
    found = []
    for method, options in chosen:
        names = [name for name in tried if name in _fields(method)]
        for values in product(*(tried[name] for name in names)):
            found.append(_made(method, options | dict(zip(names, values, strict=True))))
    return list({repr(balancer): balancer for balancer in found}.values())


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
    longer = [window for window in WINDOWS if window >= num_records]
    windows = [window for window in WINDOWS if window < num_records] + longer[:1]
    warmups = [warmup for warmup in WARMUPS if warmup < num_records]
    grid = [
        replace(first, window_records=window, warmup_records=warmup, temperature=temperature)
        for window, warmup, temperature in product(windows, warmups, TEMPERATURES)
        if first.form == "paper" or 3 <= warmup < window
    ]
    known = f"{describe(first)} ({'the run' if own else 'default'})"
    return {known: first} | name_settings(balancer for balancer in grid if balancer != first)


def name_settings(settings: Iterable[Balancer]) -> dict[str, Balancer]:
    """Name settings by their method and what differs from its defaults.

    Example:
        >>> list(name_settings([CoBa(), CoBa(window_records=5)]))
        ['CoBa', 'CoBa window 5']
    """
    return {describe(setting): setting for setting in settings}


def describe(balancer: Balancer) -> str:
    """Return a method's name and those of its fields that differ from their defaults."""
    differing = [
        f"{_SHORT.get(field.name, field.name)} {_shown(getattr(balancer, field.name))}"
        for field in _all_fields(type(balancer))
        if field.name != "source" and (field.default is MISSING or getattr(balancer, field.name) != field.default)
    ]
    return f"{balancer.label} {', '.join(differing)}".strip()


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_shown(part)}" for name, part in value.items())
    return " ".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)


def _specs(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Split ``"coba:window_records=5,temperature=2,uniform"`` into names with their fields."""
    found: list[tuple[str, dict[str, Any]]] = []
    for part in re.split(r",(?![^\[{]*[\]}])", text):
        left, equals, value = part.partition("=")
        name, _, field = left.rpartition(":") if equals else (left, "", "")
        if name.strip():
            found.append((name.strip(), {}))
        if equals and not found:
            raise ValueError(f"`--balancer` must begin with a method's name; got {text!r}. Type NAME:FIELD=VALUE.")
        if equals:
            found[-1][1][field.strip()] = yaml.safe_load(value)
    return found


def _grid_line(text: str) -> tuple[str, list[Any]]:
    name, _, values = text.partition("=")
    if not name.strip() or not values.strip():
        raise ValueError(
            f"`--set` must be FIELD=VALUE,VALUE,...; got {text!r}. Type for example window_records=3,5,10."
        )
    return name.strip(), [yaml.safe_load(value) for value in re.split(r",(?![^\[{]*[\]}])", values)]


def _balancer(name: str, options: Mapping[str, Any]) -> tuple[type[Balancer], dict[str, Any]]:
    legal = replayable()
    short = {key.removesuffix("_star"): method for key, method in legal.items()}
    method = legal.get(name.lower()) or short.get(name.lower())
    if method is None:
        known = {getattr(balancers, title).__name__.lower() for title in balancers.__all__}
        why = " It needs more than a log of losses tells." if name.lower().removesuffix("_star") in known else ""
        raise ValueError(
            f"`--balancer` must be one of {', '.join(sorted(legal))}; got {name!r}.{why} Choose one of these."
        )
    for field in options:
        if field not in _fields(method):
            raise ValueError(
                f"`--balancer {name}` has no field {field!r}. The fields are: {', '.join(_fields(method)) or 'none'}."
            )
    return method, dict(options)


def _fields(method: type[Balancer]) -> list[str]:
    return [field.name for field in _all_fields(method) if field.name != "source"]


def _made(method: type[Balancer], options: Mapping[str, Any]) -> Balancer:
    if missing := [name for name in _required(method) if name not in options]:
        name = method.__name__.lower()
        raise ValueError(
            f"`--balancer {name}` must be given {', '.join(missing)}. Type for example {name}:{missing[0]}=[3,1]."
        )
    return method(**options, **_starred(method))


def _names(methods: Iterable[type[Balancer]]) -> str:
    return ", ".join(dict.fromkeys(method.__name__ for method in methods))
