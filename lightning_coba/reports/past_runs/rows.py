"""What every record of a past run is turned into before tasks are looked for: rows of named values."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

#: Columns that count records, the surest first; the others are left out as times.
STEP_COLUMNS = (
    "trainer/global_step", "train/global_step", "global_step", "step", "_step", "optimizer_step", "iteration", "iter",
    "record", "epoch",
)  # fmt: skip
_ABSENT = {"", "nan", "none", "null", "na", "n/a", "-"}
_HELD_OUT = r"(?:val|valid|validation|eval|evaluation|dev|held_?out)"
_SEPARATOR = r"[/_.:-]"
_LOSS = r"(?:loss|nll|cross_entropy)"
_TASK = r"(?P<task>.+?)"
#: How trackers and trainers name the held-out loss of a task, such as val_loss/code, eval_code_loss, code/val_loss.
_FAMILIES = tuple(
    re.compile(words, re.IGNORECASE)
    for words in (
        f"{_HELD_OUT}{_SEPARATOR}{_LOSS}{_SEPARATOR}{_TASK}",
        f"{_LOSS}{_SEPARATOR}{_HELD_OUT}{_SEPARATOR}{_TASK}",
        f"{_HELD_OUT}{_SEPARATOR}{_TASK}{_SEPARATOR}{_LOSS}",
        f"{_TASK}{_SEPARATOR}{_HELD_OUT}{_SEPARATOR}{_LOSS}",
    )
)


class Row(NamedTuple):
    """One thing that was logged.

    Attributes:
        where: the place a complaint names, such as "log.csv:12".
        run: which run it belongs to, "" where its source holds one.
        values: name -> number or text, steps and times included.
    """

    where: str
    run: str
    values: Mapping[str, Any]


class Log(NamedTuple):
    """The rows of a source.

    Attributes:
        name: the file or folder, for messages.
        rows: in the order in which they were logged.
        bare: whether a column may be named as a task alone, "code" instead of "val_loss/code".
        notes: what a reader of the result should know about the reading.
    """

    name: str
    rows: Sequence[Row]
    bare: bool = False
    notes: Sequence[str] = ()


def number(value: Any) -> float | None:
    """Return a cell as a number; NaN where it is empty or says that it is, None where it is text.

    Example:
        >>> number(" 1.5 "), number(""), number("one")
        (1.5, nan, None)
    """
    if value is None or isinstance(value, bool):
        return math.nan
    if isinstance(value, str) and value.strip().lower() in _ABSENT:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def held_out_families(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return names of held-out losses by the pattern that they share: ``{pattern: {task: name}}``.

    Example:
        >>> held_out_families(["val_loss/code", "val_loss/qa", "train_loss/qa", "val_loss"])
        {'val_loss/{task}': {'code': 'val_loss/code', 'qa': 'val_loss/qa'}}
    """
    families: dict[str, dict[str, str]] = {}
    for name in names:
        found = next((match for family in _FAMILIES if (match := family.fullmatch(name))), None)
        if found:
            pattern = f"{name[: found.start('task')]}{{task}}{name[found.end('task') :]}"
            families.setdefault(pattern, {})[found["task"]] = name
    return families


def family(names: Iterable[str], pattern: str) -> dict[str, str]:
    """Return the names that a pattern such as ``"val_loss/{task}"`` fits, by task.

    Raises:
        ValueError: the pattern does not hold ``{task}`` once.
    """
    if pattern.count("{task}") != 1:
        raise ValueError(
            f"`read_losses.pattern` must hold {{task}} once; got {pattern!r}. Give how a task's losses are called, "
            "such as 'val_loss/{task}'."
        )
    before, after = map(re.escape, pattern.split("{task}"))
    matches = {name: re.fullmatch(f"{before}(.+){after}", name) for name in names}
    return {match[1]: name for name, match in matches.items() if match}


def is_held_out(name: str) -> bool:
    """Return whether a name is one of held-out rows, such as "valid"."""
    return bool(re.fullmatch(_HELD_OUT, name.strip(), re.IGNORECASE))


def is_training(name: str) -> bool:
    """Return whether a name says that it is of training steps."""
    return bool(re.search(r"(?:^|[/_.:-])train(?:ing)?(?:$|[/_.:-])", name, re.IGNORECASE))
