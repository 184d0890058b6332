"""What the weights of a run did: the sentences of its page, and of the end of the command."""

import math
from collections.abc import Mapping
from typing import Any

from lightning_coba.balancers.account import account
from lightning_coba.runs.own_balancer import own_balancer
from lightning_coba.simplex.records import BalanceTable


def account_of(balance: BalanceTable, settings: Mapping[str, Any] | None, num_steps: float = math.nan) -> list[str]:
    """Return what the weights did, the most important sentence first; whether it helped one run cannot show.

    Args:
        balance: The records.
        settings: The run's configuration as ``{"a.b": value}``; None where it is not known.
        num_steps: Optimizer steps of the run.
    """
    own = _balancer_settings(settings)
    balancer = own_balancer(own, balance)
    window = balancer.window_records if balancer else None
    history = vars(balance) | {"record": balance.records, "step": balance.steps}
    did, *why = account(balance.tasks, history, window, num_steps)
    if own.get("_target_") and "times the equal share" in did:
        why.append("Whether this lowered any loss, only a run with balancer=uniform beside it can show: coba-report.")
    return [did, *why]


def why_equal(balance: BalanceTable, settings: Mapping[str, Any] | None) -> str:
    """Say why no record of a CoBa moved the weights."""
    own, records = _balancer_settings(settings), len(balance.records)
    balancer = own_balancer(own, balance)
    if own.get("significance") is None or (balancer and records < balancer.warmup_records):
        return (
            f"All {records} records are within CoBa's warm-up, so the weights stayed equal. Validate more often "
            "(trainer.val_check_interval)."
        )
    return (
        f"In none of the {records} records did a loss rise or fall more steadily than noise does "
        f"(balancer.significance={own['significance']}), so the weights stayed equal. More validation rows make the "
        "noise smaller; balancer.significance=null moves the weights all the same."
    )


def _balancer_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    prefix = "balancer."
    return {key.removeprefix(prefix): value for key, value in (settings or {}).items() if key.startswith(prefix)}
