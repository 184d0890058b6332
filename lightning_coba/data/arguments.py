"""Checks of `MultitaskDataModule`'s arguments, whose messages say what to write."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lightning_coba.data.planning.mixing import Mixing
from lightning_coba.data.reading.found_tasks import FoundTasks, announce, find_tasks
from lightning_coba.data.reading.root import Root
from lightning_coba.data.reading.task import Task
from lightning_coba.errors import UserError


def checked_tasks(tasks: Sequence[Task] | None, root: Root | None, **rules: Any) -> FoundTasks:
    """Return the tasks, or those found at ``root``, for which the rules hold."""
    if (tasks is None) == (root is None):
        got = "neither" if tasks is None else "both"
        raise UserError(
            f"`MultitaskDataModule` must have exactly one of `tasks` and `root`; got {got}.",
            "Give tasks=[Task(...), ...], or root=<folder with one sub-folder per task>.",
        )
    if root is not None:
        found = find_tasks(root, **rules)
        announce(found)
        return found
    own = {field.name: field.default for field in fields(Task)}
    for name, rule in rules.items():
        if rule != own[name]:
            raise UserError(
                f"`MultitaskDataModule.{name}` must be left out where `tasks` are listed, since each has its own; got "
                f"{rule!r}.",
                f"Give it to the tasks: Task(..., {name}={rule!r}), or in YAML to each of data.tasks.",
            )
    checked = list(tasks or ())
    if not checked or not all(isinstance(task, Task) for task in checked) or isinstance(tasks, Mapping):
        raise UserError(
            f"`MultitaskDataModule.tasks` must be a list of at least one Task; got {tasks!r}.",
            'Write tasks=[Task("name", "train.jsonl"), ...].',
        )
    names = [task.name for task in checked]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"`MultitaskDataModule.tasks` must have different names; got {name!r} twice.", "Rename one of them."
            )
    return FoundTasks(checked)


def checked_only(only: Sequence[str] | None, suite: Sequence[Task]) -> list[Task]:
    """Return the tasks of a suite that are named, in its order; None names all."""
    names = [task.name for task in suite]
    if only is None:
        return list(suite)
    if isinstance(only, str) or not isinstance(only, Sequence) or not only or any(name not in names for name in only):
        raise UserError(
            f"`MultitaskDataModule.only` must be a list of at least one of {', '.join(names)}, or None for all; got "
            f"{only!r}.",
            f"Write only={names[:1]}, on the command line data.only={names[0]}.",
        )
    return [task for task in suite if task.name in only]


def checked_mixing(
    rule: str, temperature: float, weights: Mapping[str, float] | None, tasks: Sequence[Task], suite: Sequence[Task]
) -> Mixing:
    """Return how the tasks share an epoch; weights of other tasks of the suite are ignored."""
    names = [task.name for task in tasks]
    if weights is not None and not set(names) <= set(weights) <= {task.name for task in suite}:
        raise UserError(
            f"`MultitaskDataModule.sampling_weights` must have one weight for each of {', '.join(names)}; got "
            f"{', '.join(map(str, weights))}.",
            "Name every task once.",
        )
    return Mixing(
        rule,
        temperature,
        None if weights is None else tuple(float(weights[name]) for name in names),
        tuple(task.max_rows for task in tasks),
        tuple(task.repeats for task in tasks),
    )


def checked_int(argument: str, value: Any, lowest: int = 1, optional: bool = False) -> Any:
    """Return a whole number, or None where it is optional."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= lowest
    if not (whole or (optional and value is None)):
        raise UserError(
            f"`MultitaskDataModule.{argument}` must be a whole number of at least "
            f"{lowest}{' or None' if optional else ''}; got {value!r}.",
            "Choose such a number.",
        )
    return value


def checked_choice(argument: str, value: Any, choices: Sequence[str]) -> Any:
    """Return one of the choices."""
    if value not in choices:
        raise UserError(
            f"`MultitaskDataModule.{argument}` must be one of {', '.join(map(repr, choices))}; got {value!r}.",
            "Choose one of them.",
        )
    return value
