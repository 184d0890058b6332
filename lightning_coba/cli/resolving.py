"""From a composed configuration to plain dicts and lists: what cannot be resolved is told with its key."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lightning_coba.cli.config_folder import config_folder
from lightning_coba.cli.own_files import first_line
from lightning_coba.errors import SettingError, UserError
from lightning_coba.runs.settings import GROUPS


def resolved(config: DictConfig, only: Sequence[str] | None = None) -> dict[str, Any]:
    """Return a configuration in plain dicts and lists.

    Args:
        config: The whole of it, which interpolations are looked up in.
        only: Groups; None = everything.

    Raises:
        SettingError: A value is missing, an interpolation leads nowhere, or a group is no mapping.
    """
    try:
        settings = _plain(config) if only is None else {group: _plain(config[group]) for group in only}
        settings |= {"balancer": with_method_apart(settings["balancer"])} if settings.get("balancer") else {}
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        cure = f"Type {key}={_meaning(key) or '...'}."
        raise SettingError(f"`{key}` has to be given.", cure, key=key) from error
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        if isinstance(error.__cause__, UserError):  # a resolver of ours says what is wrong with what it was given
            ours = error.__cause__
            raise SettingError(f"`{key}`: {ours.what}", ours.cure, key=key) from error
        raise SettingError(f"`{key}` cannot be resolved ({first_line(error)}).", "Correct it.", key=key) from error
    for group in GROUPS:
        if not isinstance(settings.get(group, {}), Mapping | NoneType):
            told = f"`{group}` must hold settings, one per line, or null; got {type(settings[group]).__name__}."
            raise SettingError(told, f"Choose an option with {group}=..., or write a mapping.", key=group)
    return settings


def with_method_apart(balancer: Any) -> Any:
    """Return the group of a balancer with the method's own settings, typed ``balancer.alpha``, beside its class.

    Example:
        >>> with_method_apart({"_target_": "lightning_coba.TaskBalancing", "balancer": {"_target_": "x.DWA"},
        ...     "temperature": 3.0, "min_weight": 0.1})["balancer"]
        {'_target_': 'x.DWA', 'temperature': 3.0}
    """
    if not isinstance(balancer, Mapping) or balancer.get("_target_") != "lightning_coba.TaskBalancing":
        return balancer
    method = balancer.get("balancer")
    if not isinstance(method, Mapping):
        return balancer
    from lightning_coba import TaskBalancing

    of_callback = {"_target_", *inspect.signature(TaskBalancing).parameters}
    own = {key: value for key, value in balancer.items() if key not in of_callback}
    kept = {key: value for key, value in balancer.items() if key in of_callback}
    return kept | {"balancer": {"_target_": method.get("_target_")} | own | dict(method)}


def _meaning(key: str) -> str:
    """Return what the comment behind a value that has to be given says of it, such as ``hub id, folder``."""
    group, _, rest = key.partition(".")
    beginning = f"{rest.rpartition('.')[2]}: ???"
    for file in sorted(Path(config_folder(), group).glob("*.yaml")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip().startswith(beginning) and "#" in line:
                return f"<{line.partition('#')[2].strip()}>"
    return ""


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True, throw_on_missing=True) if OmegaConf.is_config(node) else node
