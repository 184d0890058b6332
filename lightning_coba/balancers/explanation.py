"""A state as a table that a person can read."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

#: Column title -> field of the state, in reading order.
COLUMNS = {"loss/V(0)": "loss_ratio", "slope": "slope", "RCS": "rcs", "ACS": "acs", "weight": "weights"}


def explain(state: Any, tasks: Sequence[str]) -> str:
    """Say in a small table why each task has the weight it has.

    Args:
        state: state of any balancer; what it does not carry is left out of the table.
        tasks: names, in task order.

    Returns:
        Lines of text: one per task with its loss ratio, slope per record, RCS, ACS and weight, and a last line with the
        record number and the divergence factor. A dash stands for what is not known (yet).

    Example:
        >>> from lightning_coba.balancers import Uniform
        >>> print(explain(Uniform().init(2), ["code", "qa"]))
        task  weight
        code  0.5000
        qa    0.5000
        record 0
    """
    columns = {title: getattr(state, field).tolist() for title, field in COLUMNS.items() if hasattr(state, field)}
    rows = [["task", *columns]]
    rows += [[task, *(_number(values[i]) for values in columns.values())] for i, task in enumerate(tasks)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([*lines, f"record {state.record}{_verdict(getattr(state, 'divergence_factor', None))}"])


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4f}"


def _verdict(factor: Tensor | None) -> str:
    if factor is None:
        return ""
    value = float(factor)
    if value != value:
        return ", warm-up: uniform weights"
    speaks = (
        "the relative score speaks (help the slow)"
        if value >= 0.5
        else "the absolute score speaks (damp the diverging)"
    )
    return f", divergence factor {value:.4f}: {speaks}"
