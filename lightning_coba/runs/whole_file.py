"""Files that are whole or not there: written beside the old one, brought to the disk, and moved into its place."""

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a text file in one move, so that neither a kill nor a power cut leaves half of it."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # a link there would be followed
        partial.write_text(text, encoding="utf-8")
        replace_durably(partial, file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(file)) from error  # a full disk does not say where


def replace_durably(partial: Path, file: Path) -> None:
    """Move a file that was just written into the place of another, with its contents and its name on the disk."""
    sync(partial)
    if file.is_dir():  # a checkpoint in shards
        shutil.rmtree(file)
    os.replace(partial, file)
    if sys.platform != "win32":  # which has no descriptors of folders
        sync(file.parent)


def follow_umask(folder: Path) -> None:
    """Give the files below a folder the mode of any new file: safetensors 0.8 writes weights for their owner alone."""
    umask = os.umask(0o077)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~umask)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
