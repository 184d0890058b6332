"""The balancer that a finished run was trained with, from its settings and its records."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_coba.simplex.records import BalanceTable

if TYPE_CHECKING:
    from lightning_coba.balancers import CoBa


def own_balancer(settings: Mapping[str, Any], balance: BalanceTable) -> "CoBa | None":
    """Return the CoBa that a run was trained with; None where it was another method, or cannot be known."""
    if str(settings.get("_target_")).rpartition(".")[2] != "ConvergenceBalancer":
        return None
    from lightning_coba.balancers import CoBa

    named = {field.name: settings.get(field.name) for field in fields(CoBa)}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    by_steps = settings.get("every_n_steps") or settings.get("max_overhead")
    if by_steps and "window_records" not in given:
        # The defaults then are passes over the held-out rows. How many records one is, only the first record with
        # scores tells: the warm-up, where it was left to its default too, is one pass.
        scored = np.isfinite(balance.rcs).any(axis=1)
        if not scored.any() or "warmup_records" in given:
            return None
        passes = int(balance.records[scored.argmax()]) + (given.get("form") == "mftcoder")
        given |= {"warmup_records": passes, "window_records": 5 * passes}
    return CoBa(**given)
