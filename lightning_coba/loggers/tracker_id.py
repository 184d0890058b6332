"""Under which name and id a tracker knows a run; the id is kept in the run folder, so that a resumed run goes on."""

import importlib.util
import os
from pathlib import Path

from lightning_coba.errors import MissingPackageError


def need_package(package: str, extra: str) -> None:
    """Raise ModuleNotFoundError with what to type, where a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(
            f"`logger={extra}` needs the package {package}.",
            f"Type: pip install -c constraints.txt 'lightning-coba[{extra}]'",
        )


def default_name(save_dir: str | os.PathLike[str], phase: str | None, longest: int) -> str:
    """Return the name of a run's folder, with the phase behind it where the folder is that of a phase."""
    folder = Path(save_dir).absolute()
    if phase is None:
        return folder.name[:longest]
    return f"{folder.parent.name[: longest - len(phase) - 1]}/{phase}"


def read_id(file: Path) -> str | None:
    """Return the id in a file; None where there is none."""
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def write_id(file: Path, run_id: str) -> None:
    """Keep the id in a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(run_id + "\n", encoding="utf-8")
