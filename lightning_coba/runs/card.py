"""The card of a run, ``run.json``, in the form of format version 2, whichever version wrote it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning_coba.errors import DamagedFileError, UserError
from lightning_coba.log_keys import TEST_EXACT_MATCH, TEST_LOSS, TEST_TOKEN_ACCURACY, VAL_LOSS
from lightning_coba.user_files import parse_json, read_text

#: The system of a card that names none.
MULTITASK = "multitask"
#: Under which name a result without parts is stored.
WHOLE = "all"
_MEND = "Restore it from a copy, or move the folder away and start the run again."
Better = Literal["min", "max"]


@dataclass(frozen=True)
class Result:
    """Hold one measure of a run.

    Attributes:
        values: Task, objective or level -> value; a result without parts is under `WHOLE`.
        better: Direction that is better.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    better: Better = "min"


@dataclass(frozen=True)
class Objective:
    """Hold what the checkpoint was chosen by, and a sweep optimises.

    Attributes:
        key: Logged key.
        better: Direction that is better.
        value: Its best value; NaN where there is none.
    """

    key: str = VAL_LOSS
    better: Better = "min"
    value: float = math.nan


#: Entries that a run is continued and opened by, and what they are where they are there.
ENTRIES = {
    "status": str,
    "format_version": int,
    "system": str,
    "phases": Mapping,
    "objective": Mapping,
    "results": Mapping,
    "results_before": Mapping,
    "length": Mapping,
}


def read_entries(file: Path) -> dict[str, Any]:
    """Return the contents of a ``run.json`` as they are.

    Raises:
        DamagedFileError: It cannot be read, or holds no JSON object.
    """
    try:
        card = parse_json(read_text(file), str(file))
    except UserError as error:
        raise DamagedFileError(f"the file is damaged: {error.what}", _MEND, where=str(file)) from error
    if not isinstance(card, dict):
        raise DamagedFileError("the file is damaged: it holds no JSON object.", _MEND, where=str(file))
    return card


def check_entries(card: Mapping[str, Any], file: Path) -> None:
    """Refuse a card whose entries are not what a run writes.

    Raises:
        DamagedFileError: Then; it names the first of them.
    """
    wrong = [key for key, kind in ENTRIES.items() if card.get(key) is not None and not isinstance(card[key], kind)]
    wrong += [f"phases.{name}" for name, entries in mapping(card.get("phases")).items() if mapping(entries) != entries]
    if wrong:
        raise DamagedFileError(f"the file is damaged: `{wrong[0]}` has the wrong type.", _MEND, where=str(file))


def read_card(file: Path) -> dict[str, Any]:
    """Return the contents of a ``run.json`` in the form of version 2.

    Raises:
        DamagedFileError: The file cannot be read, or holds no JSON object.
    """
    card = read_entries(file)
    return {"system": MULTITASK, **(card if number(card.get("format_version", 1)) >= 2 else _of_version_1(card))}


def first_step(card: Mapping[str, Any]) -> int:
    """Return the number of the first step in ``metrics.csv``: runs of version 1 count from 0."""
    return int(number(card.get("format_version", 1)) >= 2)


def results_of(entry: Any) -> dict[str, Result]:
    """Return the entry ``results`` or ``results_before`` of a card, by key in its order; what is malformed is left out.

    Example:
        >>> results_of({"test_loss": {"better": "min", "values": {"code": 1.2, "qa": None}}})
        {'test_loss': Result(values={'code': 1.2, 'qa': nan}, better='min')}
    """
    return {
        str(key): Result(numbers(result["values"]), _better(result))
        for key, result in mapping(entry).items()
        if isinstance(result, Mapping) and isinstance(result.get("values"), Mapping)
    }


def objective_of(entry: Any) -> Objective:
    """Return the entry ``objective`` of a card; the mean validation loss without a value where there is none."""
    named = mapping(entry)
    return Objective(str(named.get("key", VAL_LOSS)), _better(named), number(named.get("value")))


def mapping(value: Any) -> Mapping[Any, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def numbers(value: Any) -> dict[str, float]:
    """Return a mapping of names to numbers, NaN for what is none."""
    return {str(key): number(entry) for key, entry in mapping(value).items()}


def number(value: Any) -> float:
    """Return a number; NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _better(entry: Mapping[str, Any]) -> Better:
    return "max" if entry.get("better") == "max" else "min"


def _of_version_1(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card of 0.4, which knew one system, in the form of today."""
    old = ("test_before", "test_after", "test_metrics", "val_loss")
    new = {key: value for key, value in card.items() if key not in old}
    if card.get("test_before"):
        new["results_before"] = {TEST_LOSS: {"better": "min", "values": card["test_before"]}}
    if card.get("test_after"):
        metrics = {"accuracy": TEST_TOKEN_ACCURACY, "exact_match": TEST_EXACT_MATCH}
        new["results"] = {TEST_LOSS: {"better": "min", "values": card["test_after"]}} | {
            metrics.get(name, str(name)): {"better": "max", "values": values}
            for name, values in mapping(card.get("test_metrics")).items()
        }
    if "val_loss" in card:
        new["objective"] = {"key": VAL_LOSS, "better": "min", "value": card["val_loss"]}
    return new
