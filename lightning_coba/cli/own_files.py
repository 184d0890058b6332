"""The user's own files of the configuration: which of them a command line chooses, and where a setting stands."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_coba.errors import SettingError, UserError
from lightning_coba.runs.settings import GROUPS
from lightning_coba.user_files import kind_of, refusals
from lightning_coba.user_yaml import place_in, yaml_error, yaml_nodes

#: How a folder of the user's is named among Hydra's sources.
_FOLDER = "file://"


def own_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folders of the user's that ``--config-dir`` names."""
    given = get_args_parser().parse_known_args(list(arguments))[0]
    return [Path(given.config_dir)] if given.config_dir else []


def chosen_files(folders: Sequence[Path], overrides: Sequence[str]) -> list[Path]:
    """Return the files in these folders that a command line chooses, and those that their defaults lists choose.

    Args:
        folders: Which of Hydra's groups they hold as sub-folders.
        overrides: Such as ``experiment=mine`` or ``data=a,b``; others choose no file.
    """
    found: list[Path] = []
    choices = [(name.lstrip("+"), option) for name, _, options in map(_parted, overrides) for option in options]
    while choices:
        group, option = choices.pop(0)
        for folder in folders:
            file = folder / group.partition("@")[0].strip("/") / f"{option.strip()}.yaml"
            if option and kind_of(file) == "a file" and file not in found:
                found.append(file)
                choices += _choices_in(file, group)
    return found


def _parted(override: str) -> tuple[str, str, list[str]]:
    name, equals, value = override.partition("=")
    return name, equals, [option.strip("\"'") for option in value.split(",")] if equals else []


def _choices_in(file: Path, group: str) -> Iterator[tuple[str, str]]:
    """Yield the group and option of each entry of a file's defaults list."""
    for entry in _defaults(yaml_nodes(file)):
        if isinstance(entry, yaml.ScalarNode):
            home, _, option = entry.value.rpartition("/")
            yield (home if home.startswith("/") else f"{group}/{home}"), option
        elif isinstance(entry, yaml.MappingNode):
            for name, value in entry.value:
                chosen = str(name.value).split()[-1] if str(name.value).split() else ""
                at = chosen if chosen.startswith("/") else f"{group}/{chosen}"
                options = value.value if isinstance(value, yaml.SequenceNode) else [value]
                yield from ((at, option.value) for option in options if isinstance(option, yaml.ScalarNode))


def _defaults(root: yaml.Node | None) -> list[yaml.Node]:
    entries = root.value if isinstance(root, yaml.MappingNode) else []
    return next((v.value for k, v in entries if k.value == "defaults" and isinstance(v, yaml.SequenceNode)), [])


def check_file(file: Path) -> None:
    """Refuse a file that Hydra would not read.

    Raises:
        UserError: It is no YAML, no mapping, or its defaults list is none; the message names file and line.
    """
    root = yaml_nodes(file)
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        told = "the file must hold a mapping of settings, such as `seed: 1`."
        raise UserError(told, "Write one setting per line.", where=f"{file}:{root.start_mark.line + 1}")
    for name, value in root.value:
        is_group = file.parent.name == "experiment" and name.value in (*GROUPS, "hydra")
        if is_group and not isinstance(value, yaml.MappingNode) and value.tag != "tag:yaml.org,2002:null":
            line = name.start_mark.line + 1
            cure = "Write one setting per line below it, or choose an option in the defaults list."
            raise UserError(f"`{name.value}` must hold settings.", cure, where=f"{file}:{line}")
        if name.value == "defaults" and not isinstance(value, yaml.SequenceNode):
            line = name.start_mark.line + 1
            raise UserError("`defaults` must be a list.", "Begin each entry with '- '.", where=f"{file}:{line}")
    for entry in _defaults(root):
        _check_default(entry, f"{file}:{entry.start_mark.line + 1}")
    try:
        with refusals("a value cannot be read", "Put it in quotes.", file):
            _load(file)
    except SettingError as error:
        raise SettingError(error.what, error.cure, place_of(error.key, [file]) or str(file), error.key) from None


def refuse_lookups_in_defaults(file: Path, cure: str) -> None:
    """Refuse a defaults list that looks anything up, such as a variable of the environment, while it is composed.

    Raises:
        UserError: It does.
    """
    for entry in _defaults(yaml_nodes(file)):
        if "${" in yaml.serialize(entry):
            told = "an entry of `defaults` looks something up with ${...}."
            raise UserError(told, cure, where=f"{file}:{entry.start_mark.line + 1}")


def _load(file: Path) -> None:
    try:
        OmegaConf.load(file)
    except yaml.YAMLError as error:
        raise yaml_error(error, file) from None
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        raise SettingError(f"`{key}` cannot be read ({first_line(error)}).", "Correct it.", key=key) from None


def _check_default(entry: yaml.Node, where: str) -> None:
    is_name = isinstance(entry, yaml.ScalarNode) and entry.tag == "tag:yaml.org,2002:str"
    is_choice = (
        isinstance(entry, yaml.MappingNode)
        and len(entry.value) == 1
        and isinstance(entry.value[0][0], yaml.ScalarNode)
        and not isinstance(entry.value[0][1], yaml.MappingNode)
    )
    if not (is_name or is_choice):
        told = "an entry of `defaults` must be `GROUP: OPTION`, or the name of a file."
        raise UserError(told, "Write, for example, `- override /data: files`.", where=where)


def place_of(key: str, files: Sequence[Path]) -> str:
    """Return file and line where a setting was made, of the last of the files that make it; "" where none does."""
    for file in reversed(files):
        try:
            if line := place_in(yaml_nodes(file), key.split(".")):
                return f"{file}:{line}"
        except UserError:
            continue
    return ""


def place_of_option(option: str, files: Sequence[Path]) -> str:
    """Return file and line of the entry of a defaults list that chooses an option."""
    for file in files:
        for entry in _defaults(yaml_nodes(file)):
            values = [value for _, value in entry.value] if isinstance(entry, yaml.MappingNode) else [entry]
            if any(str(value.value).strip("/").endswith(option) for value in values):
                return f"{file}:{entry.start_mark.line + 1}"
    return ""


@contextmanager
def located() -> Iterator[None]:
    """Say of a wrong setting in which file of the user's it stands, where no override on the command line set it."""
    try:
        yield
    except SettingError as error:
        if error.where or not error.key:
            raise
        config = HydraConfig.get()
        sources = [Path(source.path) for source in config.runtime.config_sources if source.schema == "file"]
        own = [path for path in sources if (path / "experiment").is_dir() or not (path / "train.yaml").is_file()]
        choices = [f"{group}={option}" for group, option in config.runtime.choices.items() if option]
        typed = any(one.lstrip("+~").partition("=")[0] == error.key for one in config.overrides.task)
        where = "" if typed else place_of(error.key, chosen_files(own, choices))
        raise SettingError(error.what, error.cure, where, error.key) from error


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says; OmegaConf puts its own terms on the others."""
    said = next(iter(str(error).strip().splitlines()), "")
    return said.rstrip(".") or type(error).__name__
