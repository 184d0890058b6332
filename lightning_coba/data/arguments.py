"""Checks of `MultitaskDataModule`'s arguments, whose messages say what to write."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from lightning_coba.data.task import Task, tasks_at


def checked_tasks(tasks: Sequence[Task] | None, root: str | PathLike[str] | None, **rules: Any) -> list[Task]:
    """Return the tasks, or those found at ``root``, for which the rules hold."""
    if (tasks is None) == (root is None):
        got = "neither" if tasks is None else "both"
        raise ValueError(
            f"`MultitaskDataModule` must have exactly one of `tasks` and `root`; got {got}. "
            "Give tasks=[Task(...), ...], or root=<folder with one sub-folder per task>."
        )
    if root is not None:
        return tasks_at(root, **rules)
    checked = list(tasks or ())
    if not checked or not all(isinstance(task, Task) for task in checked) or isinstance(tasks, Mapping):
        raise ValueError(
            f"`MultitaskDataModule.tasks` must be a list of at least one Task; got {tasks!r}. "
            'Write tasks=[Task("name", "train.jsonl"), ...].'
        )
    names = [task.name for task in checked]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"`MultitaskDataModule.tasks` must have different names; got {name!r} twice. Rename one of them."
            )
    return checked


def checked_int(argument: str, value: Any, lowest: int = 1, optional: bool = False) -> Any:
    """Return a whole number, or None where it is optional."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= lowest
    if not (whole or (optional and value is None)):
        raise ValueError(
            f"`MultitaskDataModule.{argument}` must be a whole number of at least {lowest}"
            f"{' or None' if optional else ''}; got {value!r}. Choose such a number."
        )
    return value


def checked_epoch(value: Any) -> Any:
    """Return the name of a length, or a number of steps."""
    named = ("all", "largest", "smallest")
    if value in named or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(
        f"`MultitaskDataModule.epoch` must be one of {', '.join(map(repr, named))} or a number of optimizer steps of "
        f"at least 1; got {value!r}. Choose one of them."
    )


def checked_choice(argument: str, value: Any, choices: Sequence[str]) -> Any:
    """Return one of the choices."""
    if value not in choices:
        raise ValueError(
            f"`MultitaskDataModule.{argument}` must be one of {', '.join(map(repr, choices))}; "
            f"got {value!r}. Choose one of them."
        )
    return value
