"""Run balancers over the losses of a past run, without a model."""

from collections.abc import Mapping

import numpy as np
import torch

from lightning_coba.balancers import Balancer, Observation
from lightning_coba.balancers.base import check_baseline
from lightning_coba.errors import UserError
from lightning_coba.reports.past_runs.loss_table import LossTable
from lightning_coba.reports.replay.grid import Settings, name_settings, works_on_losses
from lightning_coba.simplex.records import BalanceTable

#: Columns of a BalanceTable that the state of a balancer may hold.
SCORES = ("slope", "rcs", "acs", "divergence_factor")


def replay_settings(table: LossTable, settings: Settings) -> dict[str, BalanceTable]:
    """Return what each setting would have made of the losses of a past run.

    Use it to choose a setting before training again. The results draw themselves: ``weights_figure(result)``,
    ``scores_figure(result)``. They show the weights that a balancer chooses *on these losses*; under other weights the
    run would have had other losses.

    A method on training losses gets the held-out ones in their place.

    Args:
        table: the losses, as `read_losses` returns them.
        settings: balancers by name, or balancers, which get names of their own.

    Returns:
        Name -> records, in the given order. `ratio` is the loss / V(0); scores are NaN where a method has none.

    Raises:
        ValueError: a V(0) is not finite and positive, or a balancer needs more than losses.

    Example:
        >>> from lightning_coba.balancers import CoBa
        >>> losses = [[1.0, 1.0], [0.9, 0.5], [0.8, 0.3], [0.7, 0.2], [0.6, 0.15]]
        >>> table = LossTable(["slow", "fast"], [10, 20, 30, 40, 50], losses)
        >>> found = replay_settings(table, [CoBa(window_records=4, warmup_records=2), CoBa(warmup_records=4)])
        >>> {name: result.weight[2].round(2).tolist() for name, result in found.items()}
        {'CoBa window 4, warm-up 2': [0.75, 0.25], 'CoBa warm-up 4': [0.5, 0.5]}
    """
    given = name_settings(settings)
    check_baseline(torch.from_numpy(table.first_losses), tasks=list(table.tasks))
    return {name: _replay(table, balancer) for name, balancer in given.items()}


def most_different(results: Mapping[str, BalanceTable], most: int = 6) -> dict[str, BalanceTable]:
    """Return the first setting and those that differ most from the ones already chosen, in their order.

    Example:
        >>> from lightning_coba.balancers import Fixed, Uniform
        >>> table = LossTable(["a", "b"], [1], [[1.0, 1.0]])
        >>> found = replay_settings(table, {"u": Uniform(), "near": Fixed([1.1, 1]), "far": Fixed([9, 1])})
        >>> list(most_different(found, 2))
        ['u', 'far']
    """
    names = list(results)
    weights = np.array([result.weight.ravel() for result in results.values()])
    chosen = [0]
    distance = np.abs(weights - weights[0]).sum(axis=1)
    while len(chosen) < min(most, len(names)) and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.abs(weights - weights[chosen[-1]]).sum(axis=1))
    return {names[i]: results[names[i]] for i in sorted(chosen)}


def _replay(table: LossTable, balancer: Balancer) -> BalanceTable:
    """Run one balancer over the records and keep what it computed at each."""
    losses = torch.from_numpy(table.losses)
    if not works_on_losses(balancer):
        needed = ", ".join(sorted(balancer.needs)) or "the number of tokens in each step"
        raise UserError(
            f"`replay_settings.settings` must work on losses alone; {balancer.label} needs {needed}, which a log of "
            "losses does not tell.",
            "Leave it out.",
        )
    balancer = balancer.for_tasks(table.tasks)
    initial = None if table.initial is None or balancer.baseline_signal is None else torch.from_numpy(table.initial)
    state = balancer.init(len(table.tasks), initial=initial)
    history: dict[str, list[np.ndarray]] = {}
    for record, row in enumerate(losses, 1):
        seen = Observation(step=record, present=row.isfinite(), **dict.fromkeys(balancer.needs, row))
        state, weights = balancer.update(state, seen)
        scores = {name: value for name in SCORES if (value := getattr(state, name, None)) is not None}
        for name, value in {"weight": weights, **scores}.items():
            history.setdefault(name, []).append(np.asarray(value))
    known = {
        "record": range(1, table.num_records + 1),
        "step": table.steps,
        "loss": table.losses,
        "ratio": table.ratios,
    }
    return BalanceTable.from_history(history | known, table.tasks)
