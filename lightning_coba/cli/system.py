"""Build a system from its settings, and ask it what it may offer; see `systems/protocol.py`."""

import json
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_coba.cli.config_check import parameters_of
from lightning_coba.errors import UserError
from lightning_coba.runs.card import WHOLE, Objective
from lightning_coba.runs.instantiation import built, target_of
from lightning_coba.runs.run_folder import OWN_ENTRIES

#: Groups of the configuration that are passed to a system under their names, where it has such an argument.
PARTS = ("model", "peft", "optimizer", "scheduler")
TEST = "test_"


def build_system(settings: Mapping[str, Any]) -> L.LightningModule:
    """Instantiate the node ``system`` with its parts. A group whose option is `none` is empty: nothing is passed."""
    return built(with_parts(settings), "system")


def with_parts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node ``system`` with the parts that its class takes."""
    system = dict(settings["system"])
    takes = parameters_of(target_of(system, "system."))
    return system | {
        part: settings[part] for part in PARTS if settings.get(part) and part in takes and part not in system
    }


def card_of(module: L.LightningModule, datamodule: Any) -> dict[str, Any]:
    """Return what the card says of the system from the start.

    Raises:
        ValueError: if the system's ``card()`` sets an entry that is not its own.
    """
    said = dict(module.card()) if hasattr(module, "card") else {}
    taken = sorted(set(said) & set(OWN_ENTRIES))
    if taken:
        raise UserError(f"`{type(module).__name__}.card` must not set {', '.join(taken)}.", "Choose another name.")
    for key, value in said.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise UserError(
                f"`{type(module).__name__}.card` must hold numbers, texts, lists and dicts; {key!r} is a "
                f"{type(value).__name__}.",
                "Convert it.",
            ) from error
    return {"tasks": list(getattr(datamodule, "task_names", ()))} | said


def results_of(module: L.LightningModule, logged: Mapping[str, float]) -> dict[str, Any]:
    """Return a system's results as the card holds them: key -> ``{"better": direction, "values": {name: value}}``.

    Args:
        module: after the test pass.
        logged: what that pass has logged; the results of a system that names none.
    """
    if not hasattr(module, "results"):
        return {key: _result(key, values, "min") for key, values in _by_key(logged).items()}
    named = module.results()
    for key, result in named.items():
        if not isinstance(result, tuple) or len(result) != 2 or result[1] not in ("min", "max"):
            raise UserError(
                f'`{type(module).__name__}.results` must hold a Result(values, "min" or "max") for each key; '
                f"{key!r} is {result!r}.",
                "Correct it.",
            )
    return {str(key): _result(key, *result) for key, result in named.items()}


def _result(key: str, values: Any, better: str) -> dict[str, Any]:
    parts = values if isinstance(values, Mapping) else {WHOLE: values}
    try:
        return {"better": better, "values": {str(name): float(value) for name, value in parts.items()}}
    except (TypeError, ValueError) as error:
        raise UserError(f"`results` must hold numbers; {key!r} holds {values!r}.", "Correct it.") from error


def _by_key(logged: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Group ``test_loss/code`` under ``test_loss``; a mean that is logged beside its parts is left out."""
    grouped: dict[str, dict[str, float]] = {}
    for name, value in logged.items():
        key, _, part = name.partition("/")
        if key.startswith(TEST):
            grouped.setdefault(key, {})[part or WHOLE] = value
    return {
        key: {part: value for part, value in parts.items() if part != WHOLE or len(parts) == 1}
        for key, parts in grouped.items()
    }


def objective_of(module: Any) -> tuple[str, str]:
    """Return the key that a sweep optimises, and the direction that is better; of the validation loss by default."""
    key, better = module.objective() if hasattr(module, "objective") else (Objective.key, Objective.better)
    if better not in ("min", "max"):
        raise UserError(
            f'`{type(module).__name__}.objective` must return (key, "min" or "max"); got {better!r}.', "Correct it."
        )
    return str(key), better


def objective_value(
    key: str, best: ModelCheckpoint | None, best_score: float, logged: Sequence[Mapping[str, Any]]
) -> float:
    """Return the objective: the best of its checkpoint's validation passes, else what was logged last; NaN for none."""
    if best is not None and best.monitor == key:
        return best_score
    return next((float(values[key]) for values in logged if key in values), nan)
