"""Data sets of the Hugging Face hub: how they are named, and what their splits are called there."""

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lightning_coba.data.reading.files import SPLIT_NAMES
from lightning_coba.data.reading.formats import data_suffix
from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.user_files import reason

#: What marks a source as a data set of the hub, whatever files there are.
PREFIX = "hf:"
_ID = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")


class HubId(NamedTuple):
    """A data set of the hub.

    Attributes:
        name: Its id, such as ``openai/gsm8k``.
        config: Which of its configurations; None where it has one.
    """

    name: str
    config: str | None = None

    def __str__(self) -> str:
        """Return it as it is typed, without the prefix."""
        return f"{self.name}:{self.config}" if self.config else self.name


def hub_id(text: str) -> HubId | None:
    """Return the id behind ``hf:``; None for any other text.

    Raises:
        UserError: What follows is no id.

    Example:
        >>> str(hub_id("hf:openai/gsm8k:main")), hub_id("data/train.jsonl")
        ('openai/gsm8k:main', None)
    """
    if not text.startswith(PREFIX):
        return None
    found = _ID.fullmatch(text.removeprefix(PREFIX))
    if not found:
        raise UserError(
            f"{text!r} is no data set of the Hugging Face hub.", "Write hf:org/name, or hf:org/name:configuration."
        )
    return HubId(found["name"], found["config"])


def unmarked_hub_id(path: Path) -> HubId | None:
    """Return the id that a path without ``hf:`` must be, since no such file can be meant; else None."""
    found = _ID.fullmatch(str(path))
    # In a folder that exists it is a path that was mistyped: the hub is not asked, which takes long without a network.
    is_path = path.exists() or path.parent.is_dir() or data_suffix(path.name)
    return None if found is None or is_path else HubId(found["name"], found["config"])


def split_names(dataset: HubId) -> dict[str, str]:
    """Return split -> its name in the data set, which may be ``dev`` for ``validation``; see `loaded`."""
    there = loaded(dataset)
    return {
        split: next(name for name in names if name in there)
        for split, names in SPLIT_NAMES.items()
        if any(name in there for name in names)
    }


def load_split(dataset: HubId, split: str) -> Any:
    """Return a split as a ``datasets`` object; see `loaded`.

    Raises:
        UserError: The data set has no such split.
    """
    names = split_names(dataset)
    if split not in names:
        raise UserError(
            f"the data set {str(dataset)!r} has no split {split!r}, only {', '.join(map(repr, loaded(dataset)))}.",
            "Give a data set that has one.",
        )
    return loaded(dataset)[names[split]]


@cache
def loaded(dataset: HubId) -> Any:
    """Return all splits by name; the hub is asked once per process.

    Raises:
        MissingFileError: The data set cannot be loaded.
    """
    import datasets

    try:
        return datasets.load_dataset(dataset.name, dataset.config)
    except Exception as error:
        raise MissingFileError(
            f"the data set {str(dataset)!r} does not load from the Hugging Face hub ({type(error).__name__}: "
            f"{reason(error)}).",
            "Check the id and the connection; without one, data sets that were loaded here before can be used.",
        ) from error
