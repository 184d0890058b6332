"""Checkpoints on disk: written whole, checked when they are read, and the one before the last kept beside it."""

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from packaging.version import InvalidVersion, Version

from lightning_coba.errors import DamagedFileError, MissingFileError, UserError
from lightning_coba.runs.files import RunFiles
from lightning_coba.runs.whole_file import replace_durably

#: What a checkpoint holds from which a fit goes on, with its type.
_TYPES = {
    "state_dict": Mapping, "loops": Mapping, "callbacks": Mapping, "optimizer_states": list, "lr_schedulers": list,
    "global_step": int, "epoch": int,
}  # fmt: skip
TO_RESUME = tuple(_TYPES)
_VERSION = "pytorch-lightning_version"


@contextmanager
def written_whole(trainer: L.Trainer, file: Path, previous: Path | None = None) -> Iterator[Path]:
    """Give a path to write a checkpoint to, which then takes the place of a file in one move; every rank calls it.

    Whenever the process or the machine stops, a whole checkpoint is there. Lightning writes to the system's temporary
    folder and moves: between file systems that is a copy, which a kill cuts off.

    Args:
        trainer: of the fit.
        file: to write or replace.
        previous: keeps the file's former contents; they are lost where it is None.

    Raises:
        UserError: the disk is full, or refuses; what was there before is still there.
    """
    partial = file.with_name(f"{file.name}.partial")
    try:
        yield partial
        if trainer.is_global_zero:
            if previous is not None and file.is_file():
                os.replace(file, previous)
            replace_durably(partial, file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"the checkpoint could not be written ({error.strerror or error}).",
            "Free space or fix the disk, then continue with resume=auto.",
            where=str(file),
        ) from error
    trainer.strategy.barrier("written_whole")


def load_checkpoint(file: Path, parts: Sequence[str] = ("state_dict",)) -> dict[str, Any]:
    """Read a checkpoint, after every byte of it was checked.

    Args:
        file: ``last.ckpt``, ``best.ckpt`` or another one of Lightning's.
        parts: what has to be in it; `TO_RESUME` to go on from it.

    Raises:
        MissingFileError: there is no such file.
        DamagedFileError: it is cut off, altered, or no checkpoint with these parts.
        UserError: a later version of Lightning wrote it.
    """
    if not file.is_file():
        raise MissingFileError("there is no such checkpoint.", "Wait for the first validation pass.", where=str(file))
    try:
        _check_bytes(file)
        # Read from memory maps: a part that nobody asks for costs nothing.
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # whatever the reader stumbles over; its advice is about files from others
        raise _damaged(file, "was altered after it was written") from error
    missing = [part for part in parts if part not in found] if isinstance(found, Mapping) else list(parts)
    if missing:
        raise _damaged(file, f"is no checkpoint to continue from: it has no {', '.join(missing)}")
    wrong = [part for part in parts if part in _TYPES and not isinstance(found[part], _TYPES[part])]
    wrong += [part for part in ("global_step", "epoch") if part in parts and part not in wrong and found[part] < 0]
    if wrong:
        raise _damaged(file, f"is no checkpoint of a fit: {', '.join(wrong)} is not what Lightning writes")
    _refuse_later_version(file, found)
    return dict(found)


def checkpoint_to_resume(files: RunFiles, set_aside: bool = False) -> Path | None:
    """Return the file from which a fit goes on, checked: the last checkpoint, or the one before where that is damaged.

    Args:
        files: of the fit.
        set_aside: whether a damaged file is renamed, so that it never takes the place of the one before.

    Returns:
        None where there is none yet.

    Raises:
        DamagedFileError: there is none that is whole.
    """
    found = [file for file in (files.last_checkpoint, files.previous_checkpoint) if file.is_file()]
    for file in found:
        try:
            load_checkpoint(file, TO_RESUME)
        except MissingFileError:  # another rank has set it aside
            continue
        except DamagedFileError as error:
            if file == found[-1]:
                raise
            rank_zero_warn(f"{error.where}: {error.what} The earlier {found[-1].name} is used instead.")
            if set_aside:
                os.replace(file, file.with_name(f"{file.name}.damaged"))
        else:
            return file
    return None


def _check_bytes(file: Path) -> None:
    """Compare every part of the file with its checksum."""
    with zipfile.ZipFile(file) as archive:
        if altered := archive.testzip():
            raise zipfile.BadZipFile(altered)


def _damaged(file: Path, what: str) -> DamagedFileError:
    return DamagedFileError(
        f"the file is damaged, or {what}.",
        "Restore it, or delete it: the run then continues from an earlier checkpoint, or starts over.",
        where=str(file),
    )


def _refuse_later_version(file: Path, checkpoint: Mapping[str, Any]) -> None:
    try:
        written = Version(str(checkpoint.get(_VERSION, L.__version__)))
    except InvalidVersion as error:
        raise _damaged(file, "does not say which version of Lightning wrote it") from error
    if written.release[:2] > Version(L.__version__).release[:2]:
        raise UserError(
            f"the checkpoint was written by lightning {written}; this is {L.__version__}.",
            f"Install lightning {written}, or start another run with name=...",
            where=str(file),
        )
