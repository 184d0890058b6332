"""From settings to objects: what a class of another package refuses is told with the key of its settings."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_coba.cli.config_check import target_of
from lightning_coba.errors import SettingError, UserError
from lightning_coba.user_files import reason


def built(node: Any, key: str) -> Any:
    """Return what a part of the configuration describes, as ``hydra.utils.instantiate`` does.

    Args:
        node: Plain dicts and lists; every dict with ``_target_`` becomes what that returns (``_partial_: true``: a
            function that calls it), from the inside out. ``_args_`` are given by position; ``_recursive_: false``
            leaves what is within as it is.
        key: Of the node, for errors.

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
    called = partial(called, *given.pop("_args_", ()), **given)
    if node.get("_partial_"):
        return called
    try:
        return called()
    except UserError:
        raise
    except (ValueError, TypeError, MisconfigurationException) as error:
        if str(getattr(called.func, "__module__", "")).partition(".")[0] == "lightning_coba":
            raise
        told = f"`{key}`: {node['_target_']} refuses these settings ({reason(error)})."
        raise SettingError(told, "Correct them.", key=key) from error
