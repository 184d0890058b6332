"""Before and after training, as a file and as a table on the screen."""

import csv
import os
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lightning_coba.errors import UserError
from lightning_coba.reports.page import PageTable

if TYPE_CHECKING:
    from rich.table import Table

BEFORE_AFTER_COLUMNS = ("task", "test_loss_before", "test_loss_after", "ratio")


def before_after_rows(
    before: Mapping[str, float], after: Mapping[str, float], tokens: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """Compare each task's test loss before and after training.

    Args:
        before: Task -> test loss of the untrained model, in nats per completion token.
        after: The same after training; the same tasks.
        tokens: Task -> completion tokens of its test split, where the reader should see how much a row rests
            on.

    Returns:
        One row per task in the order of `before`, with the columns of the file (and `tokens`, where given), then
        the row "mean": the unweighted mean of each column over the tasks (of `tokens`: the sum). `ratio` is
        after / before, NaN where the loss before is 0.

    Raises:
        ValueError: The mappings do not name the same tasks, or none.

    Example:
        >>> for row in before_after_rows({"code": 2.0, "qa": 4.0}, {"code": 1.0, "qa": 3.0}):
        ...     print(*row.values())
        code 2.0 1.0 0.5
        qa 4.0 3.0 0.75
        mean 3.0 2.0 0.625
    """
    if not before:
        raise UserError("`before_after_rows.before` must name at least one task; got none.", "Test before training.")
    for name, given in {"after": after, "tokens": tokens}.items():
        if given is not None and set(given) != set(before):
            raise UserError(
                f"`before_after_rows.{name}` must name the tasks of `before` ({', '.join(before)}); got "
                f"{', '.join(given) or 'none'}.",
                "Test the same tasks before and after training.",
            )
    rows: list[dict[str, Any]] = []
    for task in before:
        ratio = after[task] / before[task] if before[task] else nan
        losses = (task, float(before[task]), float(after[task]), ratio)
        rows.append(dict(zip(BEFORE_AFTER_COLUMNS, losses, strict=True)))
        if tokens is not None:
            rows[-1]["tokens"] = int(tokens[task])
    mean = {"task": "mean", **{name: fmean(row[name] for row in rows) for name in BEFORE_AFTER_COLUMNS[1:]}}
    if tokens is not None:
        mean["tokens"] = sum(row["tokens"] for row in rows)
    return [*rows, mean]


def write_before_after(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of `before_after_rows` as CSV: task, test_loss_before, test_loss_after, ratio."""
    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, BEFORE_AFTER_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def before_after_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """Show the rows of `before_after_rows` on the screen: ``rich.print(before_after_table(rows))``."""
    columns = {
        "task": [row["task"] for row in rows],
        "before": [f"{row['test_loss_before']:.4f}" for row in rows],
        "after": [f"{row['test_loss_after']:.4f}" for row in rows],
        "after / before": [f"{row['ratio']:.3f}" for row in rows],
    }
    if "tokens" in rows[0]:
        columns["test tokens"] = [f"{row['tokens']:,}" for row in rows]
    return PageTable.of("", columns).on_screen(
        "Loss per completion token on the TEST split (lower is better). after / before below 1: better than before "
        "training. mean: of each column, so that of the ratios too."
    )
