"""Under which id a tracker knows a run: kept in the run folder, so that a resumed run goes on in the same place."""

import importlib.util
from pathlib import Path


def need_package(package: str, extra: str) -> None:
    """Raise ModuleNotFoundError with what to type, where a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"`logger={extra}` needs the package {package}. Type: pip install -c constraints.txt "
            f"'lightning-coba[{extra}]'"
        )


def read_id(file: Path) -> str | None:
    """Return the id in a file; None where there is none."""
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def write_id(file: Path, run_id: str) -> None:
    """Keep the id in a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(run_id + "\n", encoding="utf-8")
