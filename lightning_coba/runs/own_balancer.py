"""The balancer that a finished run was trained with, from its settings and its records."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_coba.simplex.records import BalanceTable

if TYPE_CHECKING:
    from lightning_coba.balancers import CoBa


def coba_of_passes(settings: Mapping[str, Any]) -> "CoBa | None":
    """Return the CoBa that the settings of a run describe, where validation passes are its records; else None."""
    if _is_coba(settings) and not _is_by_steps(settings):
        from lightning_coba.balancers import CoBa

        return CoBa(**_given(settings))
    return None


def own_balancer(settings: Mapping[str, Any], balance: BalanceTable) -> "CoBa | None":
    """Return the CoBa that a run was trained with; None where it was another method, or cannot be known."""
    if not _is_coba(settings):
        return None
    from lightning_coba.balancers import CoBa

    given = _given(settings)
    if _is_by_steps(settings) and "window_records" not in given:
        # The defaults then are passes over the held-out rows. How many records one is, only the first record with
        # scores tells: the warm-up, where it was left to its default too, is one pass.
        scored = np.isfinite(balance.rcs).any(axis=1)
        if not scored.any() or "warmup_records" in given:
            return None
        passes = int(balance.records[scored.argmax()]) + (given.get("form") == "mftcoder")
        given |= {"warmup_records": passes, "window_records": 5 * passes}
    return CoBa(**given)


def _is_coba(settings: Mapping[str, Any]) -> bool:
    return str(settings.get("_target_")).rpartition(".")[2] == "ConvergenceBalancer"


def _is_by_steps(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("every_n_steps") or settings.get("max_overhead"))


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return CoBa's own settings that are not left to their defaults."""
    from lightning_coba.balancers import CoBa

    named = {field.name: settings.get(field.name) for field in fields(CoBa)}
    return {name: value for name, value in named.items() if value is not None}
