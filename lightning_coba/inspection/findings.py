"""What an inspection of data found: how severe it is, and what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

Level = Literal["error", "warning", "note"]
#: Most severe first. An error stops the training, a warning harms it, a note is worth knowing.
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing to know about the data.

    Attributes:
        level: ``"error"``: training would stop; ``"warning"``: it would run, and worse than it could; ``"note"``.
        task: The task whose data it is about; empty = several tasks.
        what: What was found, with numbers.
        cure: What to do: an option, or an edit.
        place: Where to look, such as ``file:line``; may be empty.
    """

    level: Level
    task: str
    what: str
    cure: str
    place: str = ""


#: What is wrong with some rows, in words to be read after "3 rows", and their numbers, int64 ``[rows]``.
Fault = tuple[Finding, np.ndarray]


def finding(kind: str, task: str = "", place: str = "", level: Level | None = None, **facts: Any) -> Finding:
    """Return a finding in the words of ``findings.yaml``.

    Args:
        kind: Its key there.
        task: See `Finding`.
        place: See `Finding`.
        level: The level, where the kind has none of its own.
        **facts: What its words leave open.
    """
    told = _kinds()[kind]
    what, cure = (told[part].format(**facts) for part in ("what", "cure"))
    return Finding(level or told["level"], task, what, cure, place)


@cache
def _kinds() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("findings.yaml").read_text(encoding="utf-8"))


def fault_findings(faults: Iterable[tuple[str, Callable[[int], str], Fault]]) -> list[Finding]:
    """Return one finding per kind of fault; one that several tasks have is told once, with the rows of each.

    Args:
        faults: The name of a task, where its rows came from, and a fault of it.

    Example:
        >>> empty, rows = Finding("warning", "", "with an empty prompt", "Fill it."), np.array([4, 6])
        >>> [found] = fault_findings([("a", "a.csv:{}".format, (empty, rows)), ("b", "b.csv:{}".format, (empty, rows))])
        >>> found.what, found.place
        ('rows with an empty prompt, in a (2), b (2)', 'a.csv:4')
    """
    kinds: dict[Finding, dict[str, int]] = {}
    places: dict[Finding, str] = {}
    for task, origin, (kind, rows) in faults:
        if len(rows):
            kinds.setdefault(kind, {})[task] = len(rows)
            places.setdefault(kind, origin(int(rows[0])))
    found = []
    for kind, counts in kinds.items():
        (task, count), *others = counts.items()
        told = ", ".join(f"{task} ({count})" for task, count in counts.items())
        what = f"rows {kind.what}, in {told}" if others else f"{counted(count)} {kind.what}"
        found.append(replace(kind, task="" if others else task, what=what, place=places[kind]))
    return found


def most_severe_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return the most severe first; equally severe ones keep their order."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def warning_from(threshold: float, share: float) -> Level:
    """Return the level of what concerns a share of the rows: a warning from the threshold on, else a note."""
    return "warning" if share >= threshold else "note"


def listed(names: Iterable[object], most: int = 4) -> str:
    """Return names with commas; of many, the first and how many more.

    Example:
        >>> listed("abcdef", most=2)
        'a, b and 4 more'
    """
    texts = [str(name) for name in names]
    return ", ".join(texts) if len(texts) <= most else f"{', '.join(texts[:most])} and {len(texts) - most} more"


def counted(number: int, noun: str = "row") -> str:
    """Return a number of things in words.

    Example:
        >>> counted(1), counted(2)
        ('1 row', '2 rows')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
