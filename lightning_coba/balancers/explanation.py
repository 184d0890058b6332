"""A state as sentences and a table that a person can read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lightning_coba.balancers.account import EQUAL, own_paces, scores_in_words, weights_in_words
from lightning_coba.trend import trend_of

#: Column title -> field of the state, in reading order.
COLUMNS = {"loss/V(0)": "loss_ratio", "slope": "slope", "RCS": "rcs", "ACS": "acs", "weight": "weights"}


def explain(state: Any, tasks: Sequence[str]) -> str:
    """Say why each task has the weight that it has.

    Args:
        state: State of any balancer; what it does not carry is left out.
        tasks: Names, in task order.

    Returns:
        Lines of text. First who has more and who has less weight than the others and, of CoBa, why; then a table with
        one row per task: loss ratio, slope per record, RCS, ACS, weight and the weight as a multiple of the equal
        share; last the record number and the divergence factor. A dash stands for what is not known (yet).

    Example:
        >>> from lightning_coba.balancers import Uniform
        >>> print(explain(Uniform().init(2), ["code", "qa"]))
        All weights are equal.
        task  weight  multiple
        code  0.5000      1.00
        qa    0.5000      1.00
        record 0
    """
    return "\n".join([*_sentences(state, tasks), *explain_table(state, tasks)])


def explain_table(state: Any, tasks: Sequence[str]) -> list[str]:
    """Return the table of `explain` and the line below it."""
    columns = {title: getattr(state, field).tolist() for title, field in COLUMNS.items() if hasattr(state, field)}
    rows = [["task", *columns, "multiple"]]
    for i, task in enumerate(tasks):
        multiple = columns["weight"][i] * len(tasks)
        rows.append([task, *(_number(values[i]) for values in columns.values()), f"{multiple:.2f}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    factor = getattr(state, "divergence_factor", None)
    known = "" if factor is None else f", divergence factor {_number(float(factor))}"
    return [*lines, f"record {state.record}{known}"]


def _sentences(state: Any, tasks: Sequence[str]) -> list[str]:
    multiples = len(tasks) * state.weights.double().cpu().numpy()
    factor = float(getattr(state, "divergence_factor", np.nan))
    if np.abs(multiples - 1).max() < EQUAL:
        warming_up = hasattr(state, "divergence_factor") and np.isnan(factor)
        return [
            "All weights are equal: this is the warm-up, or the losses changed no more steadily than noise does."
            if warming_up
            else "All weights are equal."
        ]
    said = [weights_in_words(tasks, multiples)]
    if np.isnan(factor) or len(tasks) < 2:
        return said
    slopes = state.slope.cpu()
    recorded = torch.where(state.slopes_recorded, state.slopes, torch.nan).cpu()
    ratios = torch.where(state.ratios_present, state.ratios, torch.nan).cpu()
    oldest_first = ratios.roll(-(state.record % ratios.shape[1]), dims=1).numpy()
    trends = [trend_of(range(len(of_task)), of_task) for of_task in oldest_first]
    rising = [found.slope > 0 and found.exceeds_noise() for found in trends]
    return [*said, *scores_in_words(tasks, multiples, slopes, own_paces(slopes, recorded.T), factor, rising)]


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4f}"
