"""What a checkpoint says about the balancer that wrote it, and how that differs from the balancer of now."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from lightning_coba.balancers.base import Balancer


def settings(balancer: Balancer) -> dict[str, Any]:
    """Return a balancer's class and hyper-parameters as values that every checkpoint can hold.

    Returns:
        ``{"class": name, field: value, ...}`` of dicts, lists, numbers, strings and None. Tensors and tuples become
        lists; a mapping keyed by task stays one. Fields with ``compare=False`` are left out.

    Example:
        >>> from lightning_coba.balancers import FAMO
        >>> settings(FAMO(min_losses=(0.0, 0.5)))
        {'class': 'FAMO', 'lr': 0.025, 'gamma': 0.001, 'min_losses': [0.0, 0.5], 'source': 'train'}
    """
    values = {field.name: _plain(getattr(balancer, field.name)) for field in _fields(balancer) if field.compare}
    return {"class": type(balancer).__name__} | values


def differing_settings(before: Mapping[str, Any], balancer: Balancer) -> list[str]:
    """Return what a run cannot be resumed with: the names of the settings that are not those of the checkpoint.

    Args:
        before: :func:`settings` of the balancer that wrote the checkpoint, or :func:`settings_of_repr`. A field that it
            does not have counts as the default of now: a field added to a class must have the default that leaves the
            method as it was.
        balancer: the one of this run.

    Returns:
        Field names; ``["class"]`` alone if the class is another one, whose fields say nothing here. A field that the
        class no longer has, or does not have yet (a checkpoint of a later version), differs whatever its value: nobody
        knows here whether the method does the same without it.

    Example:
        >>> from lightning_coba.balancers import CoBa
        >>> differing_settings({"class": "CoBa", "warmup_records": 4}, CoBa())
        ['warmup_records']
    """
    now = settings(balancer)
    if before.get("class") != now["class"]:
        return ["class"]
    known = dict(before)
    for field in _fields(balancer):
        if field.default is not MISSING:
            known.setdefault(field.name, _plain(field.default))
        elif field.default_factory is not MISSING:
            known.setdefault(field.name, _plain(field.default_factory()))
    return [name for name in {**now, **before} if known.get(name, MISSING) != now.get(name, MISSING)]


def settings_of_repr(text: str) -> dict[str, Any] | None:
    """Return the :func:`settings` in a ``repr``, which is what checkpoints of version 0.4 hold.

    Returns:
        None where the text is not ``Class(field=value, ...)`` with literals for values (a tensor is none).

    Example:
        >>> settings_of_repr("RLW(seed=3)")
        {'class': 'RLW', 'seed': 3}
    """
    try:
        match ast.parse(text, mode="eval").body:
            case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
                values = {keyword.arg: _plain(ast.literal_eval(keyword.value)) for keyword in keywords if keyword.arg}
                return {"class": name} | values
    except (SyntaxError, TypeError, ValueError):
        pass
    return None


def _fields(balancer: Balancer) -> tuple[Field[Any], ...]:
    return fields(balancer) if is_dataclass(balancer) else ()  # no dataclass: known by its class alone


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # a tensor, an array, or a number of NumPy
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return value if type(value) in (bool, int, float, str, type(None)) else repr(value)
