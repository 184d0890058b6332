"""What an inspection of data found: how grave it is, and what to do about it."""

import re
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


def together(findings: Iterable[Finding]) -> list[Finding]:
    """Say once what is true of rows of several tasks, with the number of rows in each.

    Example:
        >>> what = ("3 rows with an empty prompt", "1 row with an empty prompt")
        >>> found = [Finding("warning", task, text, "Fill it.") for task, text in zip("ab", what, strict=True)]
        >>> [one.what for one in together(found)]
        ['rows with an empty prompt, in a (3), b (1)']
    """
    groups: dict[tuple[str, str, str], list[tuple[str, Finding]]] = {}
    for finding in findings:
        counted = re.fullmatch(r"(\d+) rows? (.*)", finding.what, re.DOTALL)
        number, rest = counted.groups() if counted else ("", finding.what)
        groups.setdefault((finding.level, rest, finding.cure), []).append((number, finding))
    said = []
    for (_, rest, _), group in groups.items():
        if len(group) == 1 or not all(number for number, _ in group):
            said += [finding for _, finding in group]
            continue
        where = ", ".join(f"{finding.task} ({number})" for number, finding in group)
        first = group[0][1]
        said.append(Finding(first.level, "", f"rows {rest}, in {where}", first.cure, first.place))
    return said


def by_gravity(findings: Iterable[Finding]) -> list[Finding]:
    """Return the gravest first; equally grave ones keep their order."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))
