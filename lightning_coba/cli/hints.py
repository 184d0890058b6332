"""A last line for who mistyped an option of ``coba-train``: the nearest one that exists, and which there are."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_coba.cli.command_line import quiet_dependencies
from lightning_coba.cli.config_folder import config_folder
from lightning_coba.errors import UserError

#: Values of a sweep that are looked at: one is wrong, and it is among the first.
MOST_JOBS = 50


def hint_for(arguments: Sequence[str]) -> str | None:
    """Return what is wrong with a command line that did not compose, and the nearest that would; None if it composes.

    Args:
        arguments: of the command, without its name.
    """
    quiet_dependencies()
    given = get_args_parser().parse_known_args(list(arguments))[0]
    searched = [f"hydra.searchpath=['file://{given.config_dir}']"] if given.config_dir else []
    try:
        jobs = list(jobs_of(given.overrides))
    except OverrideParseException as error:
        return (
            f"Write {error.override!r} as key=value without spaces; put quotes around the whole where a value has any."
        )
    several = next((one for one in given.overrides if _has_several_values(one)), None)
    if several and not given.multirun and "hydra.mode=MULTIRUN" not in given.overrides:
        key, _, values = several.partition("=")
        as_list = f", or type a list: {key}=[{values}]" if "(" not in values else ""
        return f"`{several}` gives several values. Add -m to make a run of each{as_list}."
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        for overrides in jobs:
            if hint := _hint(overrides, lambda chosen: compose("train", [*searched, *chosen])):
                return hint
    return None


def refuse_dashes(arguments: Sequence[str]) -> None:
    """Refuse a setting that is typed as an option, such as ``--max_steps 5``.

    Args:
        arguments: of the command, without its name.

    Raises:
        UserError: with what to type.
    """
    given, unknown = get_args_parser().parse_known_args(list(arguments))
    typed = next((one for one in unknown if one.startswith("-")), None)
    if typed is None:
        return
    name, _, value = typed.partition("=")
    others = [one for one in (*unknown, *given.overrides) if "=" not in one and not one.startswith("-")]
    value = value or next(iter(others), "...")
    key = name.lstrip("-").replace("-", "_")
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        known = list(_keys(OmegaConf.to_container(compose("train"), resolve=False)))
    same = [other for other in known if key in (other, other.rpartition(".")[2])]
    near = same or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    cure = "Settings are typed without dashes, as key=value"
    raise UserError(f"{name} is no option of coba-train.", f"{cure}{f': {near[0]}={value}' if near else ''}.")


def jobs_of(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Yield the overrides of a run; of a sweep, so many that every value is among them."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [
        [f"{one.key_or_group}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override() and not one.is_interval_sweep()
        else [one.input_line or ""]
        for one in parsed
    ]
    longest = max(map(len, values), default=1)
    for job in range(min(longest, MOST_JOBS)):
        yield [choices[min(job, len(choices) - 1)] for choices in values]


def _has_several_values(override: str) -> bool:
    return bool(OverridesParser.create().parse_override(override).is_sweep_override())


def _hint(overrides: Sequence[str], composed: Callable[[Sequence[str]], DictConfig]) -> str | None:
    try:
        composed(overrides)
    except MissingConfigException as error:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        return _no_option(group, option, error.options) if error.options else None
    except ConfigCompositionException as error:
        key = getattr(error.__cause__, "full_key", None)
        if not key:
            return None
        others = [one for one in overrides if not one.lstrip("+~").startswith(key.partition(".")[0])]
        groups = [one for one in overrides if one.partition("=")[0] == key.partition(".")[0] and "." in key]
        try:
            return _no_key(key, composed([*others, *groups]))
        except (HydraException, OmegaConfBaseException):
            return None
    except Exception:  # of Hydra, which raises what it likes about files of another form
        pass
    return None


def _no_option(group: str, option: str, options: Sequence[str]) -> str:
    near = difflib.get_close_matches(option, options, n=1, cutoff=0.5)
    own = " (one of your own needs --config-dir DIR)" if group == "experiment" else ""
    return (
        f"`{group}` has no option {option!r}."
        f"{f' Did you mean {group}={near[0]}?' if near else ''} Options: {', '.join(options)}{own}."
    )


def _no_key(key: str, config: DictConfig) -> str:
    settings = OmegaConf.to_container(config, resolve=False)
    parent, _, name = key.rpartition(".")
    node = _at(settings, parent)
    flat = key.replace("balancer.balancer.", "balancer.")  # where 0.4 had it
    if flat != key and flat in [*_keys(settings)]:
        return f"There is no `{key}`. Did you mean {flat}=...?"
    if options := _options_with(key):
        return f"`{key}` is a setting of {' and of '.join(options)}: choose one of these too."
    if isinstance(node, Mapping) and name in _arguments(node):
        return f"`{key}` is legal and not set so far: put a + before it, +{key}=..."
    known, addable = list(_keys(settings)), [f"{parent}.{argument}" for argument in _arguments(node)]
    same_name = [other for other in known if other.endswith(f".{key}")]
    near = same_name or difflib.get_close_matches(key, [*known, *addable], n=1, cutoff=0.5)
    meant = f" Did you mean {'' if near[0] in known else '+'}{near[0]}=...?" if near else ""
    # A balancer's own class lies beside its settings, and is none.
    there = (
        [str(name) for name in node if not str(name).startswith("_") and name != parent]
        if isinstance(node, Mapping)
        else []
    )
    listed = f" {parent or 'The configuration'} has: {', '.join(there)}." if there else ""
    return f"There is no `{key}`.{meant}{listed}"


def _options_with(key: str) -> list[str]:
    """Return the options of a group that have a key of the group, such as ``data=files`` for ``data.root``."""
    group, _, rest = key.partition(".")
    files = sorted(Path(config_folder(), group).glob("*.yaml")) if rest else []
    return [f"{group}={file.stem}" for file in files if rest in _keys(OmegaConf.to_container(OmegaConf.load(file)))]


def _at(node: Any, path: str) -> Any:
    for name in filter(None, path.split(".")):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _arguments(node: Any) -> Iterable[str]:
    """Return what the class of a part of the configuration may be given."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return ()
    return [name for name in inspect.signature(get_object(node["_target_"])).parameters if name != "self"]


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield ``a`` and ``a.b`` for every key that can be set."""
    for name, value in node.items() if isinstance(node, Mapping) else ():
        if not str(name).startswith("_"):
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")
