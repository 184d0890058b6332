"""Text of others in Markdown."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; numbers are right-aligned, and cells are shown as they are. Empty where there is no row."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return ""
    is_number = [all(re.fullmatch(r"[-+.\d,e%]*", row[i]) for row in cells) for i in range(len(columns))]
    rule = ["---:" if right else "---" for right in is_number]
    return "\n".join(f"| {' | '.join(row)} |" for row in ([*columns], rule, *cells))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return re.sub(r"([|<*`])", r"\\\1", str(value)).replace("\n", "\\n")


def code_span(text: str) -> str:
    """Return text as code, which Markdown shows as it is."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"
