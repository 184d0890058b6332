"""Compose what ``coba-train`` would train with, without training."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_coba.cli import plugins, resolvers
from lightning_coba.cli.composition import told_of
from lightning_coba.cli.config_check import check_config
from lightning_coba.cli.config_folder import config_folder
from lightning_coba.cli.hints import hint_for
from lightning_coba.cli.own_files import check_file, chosen_files, located, refuse_lookups_in_defaults
from lightning_coba.cli.resolving import resolved
from lightning_coba.cli.templates import quoted_templates
from lightning_coba.data.reading.root import typed_root
from lightning_coba.errors import MissingFileError, SettingError, UserError
from lightning_coba.runs.building import CURE, refuse_unlisted
from lightning_coba.runs.card import MULTITASK
from lightning_coba.runs.settings import flat

#: What ``${...}`` may begin with in an experiment that is not trusted: a setting, or what our own configuration
#: computes. Neither reads the environment, nor builds anything.
_HARMLESS = re.compile(
    r"\$\{((?!(hydra|logger)\b)[A-Za-z_][\w.]*\}|(choice|epochs_unless_steps|fastest_precision|run_file|run_name|suite):)"
)
#: What these groups usually build.
_PLAIN = {"model": "lightning_coba.models.LanguageModel", "trainer": "lightning.Trainer"}


def composed(source: str, settings: Sequence[str] = (), trust_code: bool = False) -> Any:
    """Return the configuration that ``coba-train`` trains with on some data; not resolved.

    Args:
        source: What ``data.root`` may be; or an experiment, which is a ``.yaml`` file in a folder named ``experiment``.
        settings: What else would be typed after ``coba-train``.
        trust_code: Whether an experiment may name anything to build, and look up anything with ``${...}``.

    Raises:
        FileNotFoundError: There is no such experiment.
        ValueError: Its folder has another name, a setting does not exist or has a wrong type, or what is trained is not
            system=multitask.
    """
    resolvers.register()
    plugins.register()
    GlobalHydra.instance().clear()
    is_experiment = source.endswith(".yaml")
    typed = [*(_experiment(Path(source)) if is_experiment else ["data=files"]), *quoted_templates(settings)]
    own = chosen_files([Path(source).resolve().parent.parent], typed) if is_experiment else []
    for file in own:
        check_file(file)
        if not trust_code:
            refuse_lookups_in_defaults(file, CURE)
    try:
        with initialize_config_dir(config_folder(), version_base="1.3"):
            config = compose("train", typed, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        if not is_experiment:
            config.data.root = typed_root(source)
    except Exception as error:  # of Hydra, which raises what it likes about files of another form
        hint = hint_for(typed) if trust_code or not is_experiment else None  # it imports what targets name
        raise told_of(error, hint, own) from None
    if is_experiment and not trust_code:
        _refuse_code(config)
    if config.system_name != MULTITASK:
        raise UserError(
            f"coba-data serves system=multitask; {source} is of system={config.system_name}, whose data coba-train "
            "reads."
        )
    with located():
        needed = resolved(config, ["data", "model", "trainer"])
        for group, node in needed.items():
            if not node:
                raise SettingError(f"`{group}` must not be empty.", f"Choose an option with {group}=...", key=group)
        if is_experiment and not trust_code:
            refuse_unlisted("data", needed["data"])  # again: `${...}` may have led to another node
        # Of the other groups, what is ours: the check imports what a target names.
        plain = [group for group, target in _PLAIN.items() if needed[group].get("_target_") == target]
        check_config({group: needed[group] for group in ("data", *plain)})
    return config


def _refuse_code(config: DictConfig) -> None:
    """Refuse the experiment of somebody else that builds or looks up more than a description of data has to."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    unused = ("hydra", "logger")  # never looked at here; ours name variables of the environment
    for key, value in flat({group: node for group, node in plain.items() if group not in unused}).items():
        for found in re.finditer(r"\$\{", str(value)):
            if not _HARMLESS.match(str(value), found.start()):
                raise UserError(f"`{key}` is {value!r}, which is not looked up for a file that may be foreign.", CURE)
    refuse_unlisted("data", plain.get("data"))


def _experiment(file: Path) -> list[str]:
    """Return what to type for an experiment of the user's."""
    if not file.is_file():
        raise MissingFileError(f"There is no file {str(file)!r}.", "Write one with coba-data init DIR.")
    home = file.resolve().parent
    if home.name != "experiment":
        raise UserError(
            "The configuration must be in a folder named 'experiment', where coba-train --config-dir looks for it; "
            f"got {str(file)!r}.",
            "Move it.",
        )
    return [f"hydra.searchpath=['file://{home.parent}']", f"experiment={file.stem}"]
