from pathlib import Path

import lightning_coba
from lightning_coba.errors import MissingFileError


def config_folder() -> str:
    """Return the folder of the Hydra configuration: inside an installed package, or beside it in a clone.

    An absolute path works from a wheel, from every editable mode and from a bare clone; ``pkg://`` does not.

    Raises:
        FileNotFoundError: if the installation is incomplete.
    """
    package = Path(lightning_coba.__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise MissingFileError(
        f"No conf/train.yaml in or beside {package}.", "Install again: pip install -c constraints.txt ."
    )
