"""Find wrong types and unknown arguments in a configuration before anything expensive is built."""

import difflib
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from lightning_coba.errors import SettingError
from lightning_coba.runs.instantiation import target_of
from lightning_coba.user_files import shown

SCALARS = (bool, int, float, str, type(None))


def check_config(config: Mapping[str, Any]) -> None:
    """Compare every ``_target_`` in a resolved configuration with the signature that it will be called with.

    Args:
        config: plain dicts and lists.

    Raises:
        ValueError: naming the key, what it must be, and what it is.
    """
    for place, node in _targets(config, ""):
        path = place.replace("balancer.balancer.", "balancer.")  # as it is typed
        called = target_of(node, place)
        parameters = parameters_of(called)
        hints = _hints(called)
        anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        for key, value in node.items():
            if str(key).startswith("_"):
                continue
            if not isinstance(key, str):
                raise SettingError(f"`{path}{key}` must be a name.", "Put it in quotes.", key=f"{path}{key}")
            if key not in parameters and not anything:
                legal = ", ".join(name for name in parameters if name != "self")
                near = difflib.get_close_matches(key, parameters, n=1)
                meant = f" Did you mean {path}{near[0]}?" if near else ""
                told = f"`{path}{key}` is no argument of {node['_target_']}."
                raise SettingError(told, f"{meant} Legal: {legal}.".lstrip(), key=f"{path}{key}")
            if not _fits(value, hints.get(key, Any)):
                told = f"`{path}{key}` must be {_say(hints[key])}; got {shown(value)}."
                raise SettingError(told, f"Give another value: {path}{key}=...", key=f"{path}{key}")


def parameters_of(called: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return what a class or function may be given; of one that does not say, anything."""
    try:
        return inspect.signature(called).parameters
    except (TypeError, ValueError):
        return {"arguments": inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)}


def _targets(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _targets(value, f"{path}{key}.")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{path}{index}.")


def _hints(called: Callable[..., Any]) -> dict[str, Any]:
    # The names in a dataclass's generated __init__ can be looked up through its class only.
    for holder in (called.__init__, called) if inspect.isclass(called) else (called,):  # type: ignore[misc]
        try:
            return get_type_hints(holder)
        except Exception:  # annotations of other packages may name what is not imported
            continue
    return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value fits a hint, as far as hints made of scalars say."""
    if hint is Any:
        return True
    if not isinstance(value, SCALARS):
        return not (isinstance(value, list | Mapping) and "_target_" not in value and _takes_scalars_alone(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is None:
        return value is None
    if hint is Tensor:
        return isinstance(value, int | float)
    if hint not in SCALARS:
        return isinstance(value, str) or value is None or (get_origin(hint) or hint) not in (list, dict, tuple, set)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _takes_scalars_alone(hint: Any) -> bool:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return all(option in SCALARS or get_origin(option) is Literal for option in options)


def _say(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_say(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(repr(option) for option in get_args(hint))
    return {type(None): "null", int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )
