"""The resolved configuration of a run, ``config.yaml``, in the form of today, whichever version wrote it."""

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from lightning_coba.errors import DamagedFileError, UserError
from lightning_coba.runs.card import MULTITASK
from lightning_coba.user_yaml import read_yaml

#: Parts of a configuration, each a mapping or null.
GROUPS = (
    "data", "model", "peft", "balancer", "optimizer", "scheduler", "trainer", "callbacks", "logger", "system",
)  # fmt: skip


_MEND = "Restore it from a copy, or move the folder away and start the run again."


def load_settings(file: Path) -> dict[str, Any]:
    """Return the contents of a ``config.yaml`` as they are; it raises what `read_settings` does."""
    try:
        settings = read_yaml(file)
    except UserError as error:
        raise DamagedFileError(f"the file is damaged: {error.what}", _MEND, where=error.where) from error
    if not isinstance(settings, dict):
        raise DamagedFileError("the file is damaged: it holds no settings.", _MEND, where=str(file))
    return settings


def read_settings(file: Path) -> dict[str, Any]:
    """Return the contents of a ``config.yaml``.

    Raises:
        UserError: The file cannot be read, or holds no mapping of such groups.
    """
    settings = load_settings(file)
    for group in GROUPS:
        if not isinstance(settings.get(group, {}), Mapping | NoneType):
            told = f"`{group}` must hold settings; got {type(settings[group]).__name__}."
            raise UserError(told, "Restore the file.", where=str(file))
    return settings if "system" in settings else _of_0_4(settings)


def flat(node: Any, prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Return nested settings as ``{"a.b": value}``.

    Example:
        >>> flat({"data": {"max_length": 64, "tasks": ["a", "b"]}, "seed": 1})
        {'data.max_length': 64, 'data.tasks': ['a', 'b'], 'seed': 1}
    """
    if not isinstance(node, Mapping):
        return {prefix.removesuffix(separator): node}
    parts = (flat(value, f"{prefix}{key}{separator}", separator) for key, value in node.items())
    return {name: value for part in parts for name, value in part.items()}


def _of_0_4(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Part the node ``model`` of 0.4, which was the module with its model, into ``system`` and ``model``."""
    model = dict(settings.get("model") or {})
    system = {"_target_": model.pop("_target_", "lightning_coba.MultitaskLM")}
    if "seed" in model:
        system["seed"] = model.pop("seed")
    described = {"_target_": "lightning_coba.models.LanguageModel", **model}
    return {**settings, "model": described, "system": system, "system_name": MULTITASK}
