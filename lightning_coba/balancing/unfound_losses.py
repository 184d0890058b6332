"""What is said where a validation pass shows no loss of any task: the keys that were logged, and what to write."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_coba.balancing.logged_keys import loss_patterns
from lightning_coba.balancing.pass_losses import MonitoredKeys
from lightning_coba.errors import WrongUseError


def other_pattern(monitored: MonitoredKeys, logged: Mapping[str, Any], tasks: Sequence[str] = ()) -> str | None:
    """Return the pattern of the keys that tasks are logged under, where it is not the monitored one.

    Args:
        monitored: The pattern that was looked for.
        logged: What was logged in the pass.
        tasks: Names of the tasks; empty = unknown, and then a pattern counts only if it finds several.
    """
    found = loss_patterns(logged, tasks)
    best = next((pattern for pattern in found if pattern != monitored.monitor), None)
    return best if best and len(found[best]) >= (1 if tasks else 2) else None


def unknown_names(callback: str, monitored: MonitoredKeys, logged: Mapping[str, Any]) -> WrongUseError:
    """Return the error for tasks that nobody named."""
    if pattern := other_pattern(monitored, logged):
        names = ", ".join(loss_patterns(logged)[pattern])
        cure = f"Give {callback} the argument monitor={pattern!r}, which finds the tasks {names}."
    else:
        example = monitored.monitor.format(task="code")
        cure = (
            f"Give {callback} the argument tasks=[...], or the module the attribute `task_names`, or log keys such as "
            f"{example!r} in validation_step."
        )
    told = f"{callback} knows no task names, and no logged key matches monitor={monitored.monitor!r}."
    return WrongUseError(f"{told} {_listed(logged)}", cure)


def is_logged_elsewhere(monitored: MonitoredKeys, tasks: Sequence[str], logged: Mapping[str, Any]) -> bool:
    """Whether tasks are clearly logged under other names, or under another pattern, than those looked for."""
    return bool(monitored.learn(logged) or other_pattern(monitored, logged, tasks))


def unfound_tasks(
    callback: str, monitored: MonitoredKeys, tasks: Sequence[str], logged: Mapping[str, Any]
) -> WrongUseError:
    """Return the error for tasks none of which was logged."""
    others, own_key = monitored.learn(logged), monitored.monitor.format(task=tasks[0])
    if others:
        cure = f"Give {callback} the argument tasks={others}, or log {own_key!r}."
    elif pattern := other_pattern(monitored, logged, tasks):
        cure = f"Give {callback} the argument monitor={pattern!r}."
    else:
        cure = f"In validation_step write self.log({own_key!r}, loss), or give {callback} the `monitor` of your keys."
    told = f"validation logged no loss of the tasks {', '.join(tasks)} under monitor={monitored.monitor!r}."
    return WrongUseError(f"{told} {_listed(logged)}", cure)


def _listed(logged: Mapping[str, Any]) -> str:
    return f"Logged: {', '.join(logged) or 'nothing'}."
