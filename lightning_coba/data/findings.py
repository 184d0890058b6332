"""What an inspection of data found: how grave it is, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
#: Gravest first. An error stops the training, a warning harms it, a note is worth knowing.
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing to know about the data.

    Attributes:
        level: ``"error"``: training would stop; ``"warning"``: it would run, and worse than it could; ``"note"``.
        task: whose data; empty = of all tasks.
        what: what was found, with numbers.
        cure: what to do: an option, or an edit.
        place: where to look, such as ``file:line``; may be empty.
    """

    level: Level
    task: str
    what: str
    cure: str
    place: str = ""


def by_gravity(findings: Iterable[Finding]) -> list[Finding]:
    """Return the gravest first; equally grave ones keep their order."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))
