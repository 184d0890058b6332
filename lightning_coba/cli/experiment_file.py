"""Read an experiment of the user's as coba-train would, without training."""

from pathlib import Path
from typing import Any

from lightning_coba.cli import plugins, resolvers
from lightning_coba.cli.config_folder import config_folder


def composed(file: Path) -> Any:
    """Return the configuration that ``coba-train --config-dir .. experiment=<file>`` trains with; not resolved.

    Args:
        file: in a folder named ``experiment``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its folder has another name.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}. Write one with coba-data init DIR.")
    home = file.resolve().parent
    if home.name != "experiment":
        raise ValueError(
            f"The configuration must be in a folder named 'experiment', where coba-train --config-dir looks for it; "
            f"got {str(file)!r}. Move it."
        )
    resolvers.register()
    plugins.register()
    GlobalHydra.instance().clear()
    overrides = [f"experiment={file.stem}", f"hydra.searchpath=['file://{home.parent}']"]
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config
