"""From settings to objects: plain dicts in, and what their ``_target_`` names out, as Hydra does it.

What a class of another package refuses is told with the key of its settings.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lightning_coba.errors import SettingError, UserError
from lightning_coba.user_files import reason, shown

PACKAGE = __name__.partition(".")[0]


def built(node: Any, key: str, **objects: Any) -> Any:
    """Return what a part of the configuration describes.

    Args:
        node: Plain dicts and lists; every dict with ``_target_`` becomes what that returns (``_partial_: true``: a
            function that calls it), from the inside out. ``_args_`` are given by position; ``_recursive_: false``
            leaves what is within as it is.
        key: Of the node, for errors.
        **objects: Further arguments of the outermost target, as they are.

    Raises:
        SettingError: A class of another package refuses its arguments; the message is its own.
    """
    if isinstance(node, list):
        return [built(entry, f"{key}.{index}") for index, entry in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {name: built(entry, f"{key}.{name}") for name, entry in node.items()}
    called = target_of(node, f"{key}.")
    given = {name: entry for name, entry in node.items() if name == "_args_" or not str(name).startswith("_")}
    if node.get("_recursive_", True):
        given = {name: built(entry, f"{key}.{name}") for name, entry in given.items()}
    called = partial(called, *given.pop("_args_", ()), **given, **objects)
    if node.get("_partial_"):
        return called
    _refuse_other_arguments(called, node["_target_"], key)
    from lightning.pytorch.utilities.exceptions import MisconfigurationException  # takes seconds

    try:
        return called()
    except UserError:
        raise
    except (ValueError, TypeError, MisconfigurationException) as error:
        if str(getattr(called.func, "__module__", "")).partition(".")[0] == PACKAGE:
            raise
        told = f"`{key}`: {node['_target_']} refuses these settings ({reason(error)})."
        raise SettingError(told, "Correct them.", key=key) from error


def _refuse_other_arguments(called: partial[Any], target: str, key: str) -> None:
    """Raise SettingError where arguments are missing, or are none that the target has."""
    try:
        signature = inspect.signature(called.func)
    except ValueError:  # some built-in classes have none
        return
    try:
        signature.bind(*called.args, **called.keywords)
    except TypeError as error:
        raise SettingError(f"`{key}` does not fit {target} ({reason(error)}).", "Correct it.", key=key) from error


def target_of(node: Mapping[str, Any], path: str) -> Callable[..., Any]:
    """Return the class or function that a part of a configuration names.

    Args:
        node: With ``_target_``.
        path: Its key with a dot behind it, for the error.

    Raises:
        SettingError: There is none of that name, or it cannot be called.
    """
    key, name = f"{path}_target_", node["_target_"]
    cure = "Give the dotted path of a class or function that can be imported."
    if not isinstance(name, str):
        raise SettingError(f"`{key}` must name a class or function; got {shown(name)}.", cure, key=key)
    try:
        called = pkgutil.resolve_name(name)
    except Exception as error:  # whatever the module that is imported raises
        told = f"`{key}`: {shown(name)} cannot be imported ({reason(error)})."
        raise SettingError(told, cure, key=key) from error
    if not callable(called):
        raise SettingError(f"`{key}` names {shown(name)}, which is not callable.", cure, key=key)
    return called
