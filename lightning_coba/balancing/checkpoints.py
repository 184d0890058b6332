"""What makes a checkpoint fit the run that resumes from it, whatever version of this package wrote it."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer
from lightning_coba.balancers.settings import differing_settings, settings, settings_of_repr
from lightning_coba.errors import UserError


def same_columns(before: Sequence[str], now: Sequence[str], strict: bool) -> list[int | None]:
    """Return, for every task of now, its index in the checkpoint, or None where it was added.

    Raises:
        ValueError: The tasks are others, or in another order, or ``strict`` and some were added.
    """
    added = [task for task in now if task not in before]
    if [task for task in now if task in before] != list(before) or (added and strict):
        raise UserError(
            f"The checkpoint was written with the tasks {', '.join(before)}; this run has {', '.join(now)}.",
            "Use the same tasks in the same order, start a new run, or admit added tasks with strict_tasks=False.",
        )
    return [None if task in added else list(before).index(task) for task in now]


def was_written_by_0_4(saved: Mapping[str, Any]) -> bool:
    """Return whether a recorder's state is of version 0.4, which kept settings as text."""
    return isinstance(saved["balancer"], str)


def refuse_other_settings(
    saved: Mapping[str, Any], balancer: Balancer, shape: tuple[list[float], float] | None
) -> None:
    """Raise ValueError where the balancer, its settings, the prior or the floor are not those of the checkpoint.

    Args:
        saved: State of a recorder.
        balancer: The balancer of this run.
        shape: Importance of each task and floor of this run; None = not compared, since there are added tasks.
    """
    before, shape_before = saved["balancer"], (saved.get("prior"), saved.get("min_weight"))
    if was_written_by_0_4(saved):
        before = settings_of_repr(saved["balancer"])
        shape_before = ast.literal_eval(saved["shape"])
    if before is None:  # a tensor was among the settings, and its text is all that is left of it
        differing = [] if saved["balancer"] == repr(balancer) else ["class or settings"]
    else:
        differing = differing_settings(before, balancer)
    if shape is not None:
        pairs = zip(("prior", "min_weight"), shape_before, shape, strict=True)
        differing += [name for name, then, now in pairs if then != now]
    if differing:
        now = settings(balancer)
        raise UserError(
            f"The checkpoint was written by {_shown(before, saved['balancer'])} with prior and floor {shape_before}; "
            f"this run has {_shown(now, '')} with {shape}, which differs in {', '.join(differing)}.",
            "Resume with the same settings, or start a new run.",
        )


def _shown(values: Mapping[str, Any] | None, otherwise: Any) -> str:
    if values is None:
        return str(otherwise)
    return f"{values['class']}({', '.join(f'{name}={value!r}' for name, value in values.items() if name != 'class')})"


def same_state(saved: Mapping[str, Any], like: Any, label: str, device: torch.device) -> Any:
    """Return the saved state of a balancer as a NamedTuple on ``device``.

    Raises:
        ValueError: Its fields are not those that the method has now.
    """
    if set(saved) != set(like._fields):
        raise UserError(
            f"The checkpoint's state of {label} holds {', '.join(sorted(saved))}, and this version of lightning_coba "
            f"keeps {', '.join(sorted(like._fields))}.",
            "Resume with the version that wrote it, or start a new run.",
        )
    return type(like)(**{name: v.to(device) if isinstance(v, Tensor) else v for name, v in saved.items()})
