"""What the configuration may compute: ``${name:arguments}`` in a YAML file."""

import hashlib

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

#: File systems allow 255 bytes in a name.
LONGEST_NAME = 200


def register() -> None:
    """Make the resolvers known to OmegaConf."""
    OmegaConf.register_new_resolver("fastest_precision", _fastest_precision, replace=True)
    OmegaConf.register_new_resolver("single_run", _single_run, replace=True)
    OmegaConf.register_new_resolver("as_folder", _as_folder, replace=True)


def _fastest_precision() -> str:
    from lightning_coba.modules.precision import fastest_precision  # imports torch, which --help does without

    return fastest_precision()


def _single_run(text: str) -> str:
    """Return the text, and nothing in a sweep, whose jobs share a folder and so may not name it after one of them."""
    return "" if HydraConfig.get().mode == RunMode.MULTIRUN else text


def _as_folder(overrides: str) -> str:
    """Return overrides as one folder's name: paths in them would nest folders, and long ones fit no file system."""
    name = overrides.replace("/", "_").replace("\\", "_")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(overrides.encode(), digest_size=4).hexdigest()
    return name.encode()[:LONGEST_NAME].decode(errors="ignore") + "-" + digest
