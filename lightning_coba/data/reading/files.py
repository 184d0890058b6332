"""Which files hold the rows: what a path stands for, and which files of a folder are which split."""

import glob
import re
from os import PathLike
from pathlib import Path
from typing import Any

from lightning_coba.data.reading.formats import data_suffix, is_data_file
from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.user_files import kind_of, parse_json, read_text, refusals

#: Split -> the names that its files may have.
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}

_WORDS = re.compile(r"[a-z]+")
_SHARD = re.compile(r"[-_.]?(\d+(-of-\d+)?|part[-_.]?\d+)$", re.IGNORECASE)
_SHARD_OF = re.compile(r"[-_.]?\d+-of-\d+$", re.IGNORECASE)


def find_files(path: str | PathLike[str], where: str) -> list[Path]:
    """Return the data files that a path stands for, sorted: a file, a glob, or a folder of data files.

    Args:
        path: the path; a file may have any name, a folder's files are told by theirs.
        where: begins the error.

    Raises:
        FileNotFoundError: There is none.
    """
    given = Path(path).expanduser()
    kind = kind_of(given)
    if kind == "a file":
        return [given]
    if kind == "a folder":
        found = data_files(given)
        missing = "the folder holds no data file (*.jsonl, *.csv, *.tsv, *.parquet)"
    elif glob.has_magic(str(given)):
        found = sorted(Path(match) for match in glob.glob(str(given), recursive=True) if Path(match).is_file())
        missing = "no file matches the pattern"
    elif kind != "nothing":
        raise UserError(
            f"{str(given)!r} is {kind}, not a file or folder.", "Give a file that can be read again.", where
        )
    else:
        found, missing = [], "there is no such file or folder"
    if not found:
        raise MissingFileError(
            f"{missing}: {str(given)!r} (read from {str(Path.cwd())!r}).", "Correct the path.", where=where
        )
    return found


def data_files(folder: Path) -> list[Path]:
    """Return the data files that lie directly in a folder, sorted.

    Raises:
        UserError: One of that name is a pipe, a broken link or the like, or the folder cannot be listed.
    """
    named = [file for file in entries_of(folder) if data_suffix(file.name)]
    kinds = {file: kind_of(file) for file in named}
    for file, kind in kinds.items():
        if kind not in ("a file", "a folder"):
            raise UserError(f"it is {kind}, not a file.", "Put a file in its place, or delete it.", where=str(file))
    return [file for file, kind in kinds.items() if kind == "a file" and is_data_file(file)]


def entries_of(folder: Path) -> list[Path]:
    """Return what lies directly in a folder, sorted."""
    with refusals("the folder cannot be listed", "Check its permissions.", folder):
        return sorted(folder.iterdir())


def stamp(file: Path) -> list[Any]:
    """Return what changes when a file does: its place, size and time."""
    status = file.stat()
    return [str(file.resolve()), status.st_size, status.st_mtime_ns]


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets.Dataset.save_to_disk` wrote this folder."""
    return kind_of(folder / "state.json") == kind_of(folder / "dataset_info.json") == "a file"


def saved_splits(folder: Path) -> list[str] | None:
    """Return the splits of a folder that `datasets.DatasetDict.save_to_disk` wrote; None for any other folder."""
    listed = folder / "dataset_dict.json"
    if kind_of(listed) != "a file":
        return None
    cure = "Save the datasets again with save_to_disk."
    found = parse_json(read_text(listed), str(listed), cure=cure)
    splits = found.get("splits") if isinstance(found, dict) else None
    if not isinstance(splits, list) or not splits or not all(isinstance(split, str) for split in splits):
        raise UserError("the file must list the splits of the saved datasets.", cure, where=str(listed))
    return splits


def split_sources(home: Path) -> dict[str, Any]:
    """Return the sources of a task's splits, found by the names of the files in its folder.

    Args:
        home: a folder with ``train.jsonl`` (or another format, ``train-00000-of-00002.parquet``, ``train_1.jsonl``,
            or a folder ``train``), the same for the other splits; or a saved dataset; or data files of other names,
            which are all train unless one of them sounds like a split.

    Returns:
        Split -> path or list of paths; empty if the folder holds no data.

    Raises:
        FileNotFoundError: There are files of another split, and none of train.
        ValueError: A file's name has a split's name in it and is not one: it could be held-out data.
    """
    if is_saved_dataset(home) or saved_splits(home) is not None:
        return {"train": home}  # `Task` finds its other splits
    found = {split: source for split in SPLIT_NAMES if (source := _source_of(home, split))}
    if found and "train" not in found:
        raise MissingFileError(
            f"The folder {str(home)!r} has rows for {' and '.join(found)}, but none for train.", "Add train.jsonl."
        )
    _refuse_doubtful_names(home)
    if not found and data_files(home):
        return {"train": home}
    return found


def _refuse_doubtful_names(home: Path) -> None:
    names = {name for names in SPLIT_NAMES.values() for name in names}
    for folder in entries_of(home):
        if data_suffix(folder.name) and kind_of(folder) == "a folder":
            told = "it is a folder, and its name is that of a data file."
            raise UserError(told, "Name the folder train, validation or test.", where=str(folder))
    for file in data_files(home):
        own = stem(file).lower()
        if own not in names and names & set(_WORDS.findall(own)):
            raise UserError(
                "the name has a split's in it and is not one, so the file could be held-out data.",
                "Name it train, validation or test (train_1, train_2, ... where there are several), or give the files "
                "to Task.",
                where=str(file),
            )


def _source_of(home: Path, split: str) -> Any:
    for name in SPLIT_NAMES[split]:
        files = [file for file in data_files(home) if stem(file).lower() == name]
        if files:
            return files[0] if len(files) == 1 else files
        folder = home / name
        if folder.is_dir() and (data_files(folder) or is_saved_dataset(folder)):
            return folder
    return None


def stem(file: Path) -> str:
    """Return the name without its format and the number of its shard.

    Example:
        >>> [stem(Path(name)) for name in ("train-00000-of-00002.parquet", "val_1.csv", "qa.jsonl.gz")]
        ['train', 'val', 'qa']
    """
    return _SHARD.sub("", file.name[: -len(data_suffix(file.name) or "")])


def task_of(file: Path) -> str:
    """Return the name of the task whose rows a file holds, where each task has a file: a number is part of the name.

    Example:
        >>> [task_of(Path(name)) for name in ("gsm-00000-of-00002.parquet", "banking77.csv", "qa.jsonl.gz")]
        ['gsm', 'banking77', 'qa']
    """
    return _SHARD_OF.sub("", file.name[: -len(data_suffix(file.name) or "")])
