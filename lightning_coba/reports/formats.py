"""How numbers and lists are written for people."""

import json
from collections.abc import Iterable, Mapping
from math import isfinite, isnan
from typing import Any

DASH = "—"
MOST_NAMES = 8  # a list in a sentence names so many
#: Settings that a reader wants to know first.
FIRST_SETTINGS = {
    "model": "model.model",
    "learning rate": "optimizer.lr",
    "batch size": "data.batch_size",
    "tokens per row at most": "data.max_length",
}


def number(value: float, form: str = ".3f") -> str:
    """Return a number in a format, a dash where there is none."""
    return DASH if isnan(value) else format(value, form)


def percent(change: float) -> str:
    """Write a change with its sign.

    Example:
        >>> percent(-0.0213), percent(0.0), percent(float("nan"))
        ('-2.1 %', '0.0 %', '—')
    """
    if isnan(change):
        return DASH
    text = f"{100 * change:+.1f} %"
    return "0.0 %" if text in ("+0.0 %", "-0.0 %") else text


def share(value: float) -> str:
    """Write a share in percent.

    Example:
        >>> share(0.5123)
        '51.2 %'
    """
    return DASH if isnan(value) else f"{100 * value:.1f} %"


def seconds(value: float) -> str:
    """Write a time in the unit that suits it.

    Example:
        >>> seconds(0.25), seconds(90), seconds(240)
        ('250 ms', '90 s', '4.0 min')
    """
    if not isfinite(value):
        return DASH
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 120 else f"{value / 60:.1f} min"


def count(number: int, noun: str) -> str:
    """Write a number of things.

    Example:
        >>> count(1, "seed"), count(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Iterable[str], most: int = MOST_NAMES) -> str:
    """Return names as a list of which a reader sees the first few.

    Example:
        >>> listed("abcde", most=3)
        'a, b, c and 2 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def as_typed(value: Any) -> str:
    """Write a setting as one would type it.

    Example:
        >>> as_typed("tiny"), as_typed(None), as_typed(True)
        ('tiny', 'null', 'true')
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def first_settings(settings: Mapping[str, Any] | None) -> list[str]:
    """Return the settings that a reader wants to know first, with their names."""
    settings = settings or {}
    return [f"{name} {as_typed(settings[key])}" for name, key in FIRST_SETTINGS.items() if key in settings]
