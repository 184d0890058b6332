"""Launchers and sweepers of extras: the one for the cores of a machine, and what to install for a missing one."""

import importlib.util

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

_INSTALL = "pip install -c constraints.txt 'lightning-coba[{}]'"
#: (group, option) -> the package it comes with, and what installs it.
PLUGINS = {
    ("hydra/launcher", "joblib"): ("hydra_plugins.hydra_joblib_launcher", _INSTALL.format("sweep")),
    ("hydra/launcher", "submitit_local"): ("hydra_plugins.hydra_submitit_launcher", _INSTALL.format("submitit")),
    ("hydra/launcher", "submitit_slurm"): ("hydra_plugins.hydra_submitit_launcher", _INSTALL.format("submitit")),
    # What the launcher declares to need holds old versions of packages that only its clusters on AWS use.
    ("hydra/launcher", "ray"): (
        "hydra_plugins.hydra_ray_launcher",
        f"{_INSTALL.format('ray')} && pip install -c constraints.txt --no-deps hydra-ray-launcher",
    ),
    ("hydra/sweeper", "optuna"): ("hydra_plugins.hydra_optuna_sweeper", _INSTALL.format("optuna")),
}
_MARK = "install"
#: The option `hydra/launcher=cores`: joblib's processes.
CORES = {
    "defaults": ["joblib"],
    "n_jobs": "${jobs_at_once:${trainer.accelerator}}",  # each has its share of the cores' threads
    "batch_size": "1",  # joblib would see finished jobs end at once, and put those to be trained into one process
}


def register() -> None:
    """Make the option `cores`, and one of every plugin that is not installed, so that what overrides it composes."""
    ConfigStore.instance().store(group="hydra/launcher", name="cores", node=CORES)
    for (group, option), (package, command) in PLUGINS.items():
        if not _is_installed(package):
            hint = f"`{group}={option}` needs a package. Type: {command}"
            ConfigStore.instance().store(group=group, name=option, node={_MARK: hint})


def refuse_missing(config: DictConfig) -> None:
    """End the command with what to install, if a plugin was chosen that is not installed.

    Raises:
        SystemExit: then.
    """
    for part in (config.hydra.launcher, config.hydra.sweeper):
        if part is not None and _MARK in part:
            raise SystemExit(part[_MARK])


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # no plugin at all
        return False
