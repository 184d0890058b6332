"""A run of several fits (search then retrain, SFT then PPO): what each of them is configured with."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict

from lightning_coba.cli.resolving import resolved
from lightning_coba.errors import SettingError, UserError
from lightning_coba.runs.files import RunFiles


class Fit(NamedTuple):
    """One fit of a run: its phase, None where it is the only one, and its resolved settings."""

    phase: str | None
    settings: dict[str, Any]


def fits_of(config: DictConfig) -> list[Fit]:
    """Return the fits of a run in their order, each with a configuration of its own.

    The node ``phases`` maps the name of a phase to what it changes. A node with a ``_target_`` replaces the run's node
    of that name whole, since arguments of another class would be left over; any other node is merged over it, and null
    takes it away. Every phase knows its name as ``phase``, from which its folder follows (resolver ``run_file``).

    Args:
        config: the composed configuration, not resolved. A phase that is null is left out.

    Raises:
        ValueError: if a required value is missing, or a phase changes what the configuration does not have.
    """
    if config.get("phases") is not None and not isinstance(config.phases, DictConfig):
        told = f"`phases` must map the name of each fit to what it changes; got {type(config.phases).__name__}."
        raise SettingError(told, "Write a mapping.", key="phases")
    phases = [name for name, changes in (config.get("phases") or {}).items() if changes is not None]
    for name in phases:
        # Its folder lies beside the files of the run.
        if not isinstance(config.phases[name], DictConfig):
            told = f"`phases.{name}` must hold what the phase changes, one setting per line."
            raise SettingError(told, "Write a mapping, or null.", key=f"phases.{name}")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) or hasattr(RunFiles, name):
            raise UserError(
                f"`phases.{name}` must be a name of letters, digits, _ and - that no file of a run has; got {name!r}.",
                "Rename it.",
            )
    return [_fit(config, phases, name) for name in phases] if phases else [Fit(None, _resolved(config))]


def _fit(config: DictConfig, phases: Sequence[str], name: str) -> Fit:
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "phases"])
    with open_dict(own):
        own.phase = name
        own.phases = dict.fromkeys(phases)  # their names, for who asks for a file of another one
        for key, node in config.phases[name].items():
            if key not in own and key != "system":
                raise UserError(
                    f"`phases.{name}.{key}` must be a part of the configuration; there are {', '.join(map(str, own))}.",
                    "Rename it.",
                )
            # As it is written: its interpolations are looked up from the root, which is that of the phase.
            node = config.phases[name]._get_node(key)
            whole = not isinstance(node, DictConfig) or node._is_none() or "_target_" in node
            own[key] = node if whole or not isinstance(own[key], DictConfig) else OmegaConf.merge(own[key], node)
    return Fit(name, _resolved(own))


def _resolved(config: DictConfig) -> dict[str, Any]:
    settings = resolved(config)
    settings.pop("phases", None)
    if "_target_" not in (settings.get("system") or {}):
        where = f"phases.{settings['phase']}.system" if settings.get("phase") else "system"
        told = f"`{where}._target_` must name the class of a LightningModule; there is none."
        raise SettingError(told, "Add it.", key=where)
    return settings


def ignored_overrides(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return a hint for each override of a node that every phase replaces whole, so that it changes nothing."""
    hints = []
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        part, dot, rest = key.partition(".")
        whole = [
            name
            for name, changes in (config.get("phases") or {}).items()
            if isinstance((changes or {}).get(part), DictConfig) and "_target_" in changes[part]
        ]
        if dot and whole:
            there = " ".join(f"phases.{name}.{part}.{rest}=..." for name in whole)
            hints.append(f"`{key}` changes nothing in {', '.join(whole)}, which has its own {part}. Type {there}")
    return hints
