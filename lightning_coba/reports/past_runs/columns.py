"""Which columns of a log hold the held-out losses of which task."""

from collections.abc import Sequence

from lightning_coba.errors import UserError
from lightning_coba.reports.formats import listed
from lightning_coba.reports.past_runs.names import (
    AGGREGATES,
    OF_ALL_TASKS,
    family,
    held_out_families,
    is_training,
    may_be_task,
    says_loss,
)
from lightning_coba.reports.past_runs.rows import Log


def task_columns(log: Log, tasks: Sequence[str] | None = None, pattern: str | None = None) -> dict[str, str]:
    """Return task -> column.

    The first of these rules that finds anything counts: the pattern; whole columns that are called like all given
    tasks; the usual names of held-out losses; in a table, columns that are called after a task alone.

    Args:
        log: What was read of one run.
        tasks: Names of tasks, or of whole columns; None = all that are found.
        pattern: How a task's losses are called, such as ``"val_loss/{task}"``.

    Raises:
        ValueError: There is no loss, or more than one way to read it; the message lists the choices.
    """
    columns = log.columns
    if pattern is not None:
        found = family(columns, pattern)
    elif tasks and all(task in columns for task in tasks):
        found = {task: task for task in tasks}
    else:
        found = _named_as_usual(log, columns, tasks or ()) or _named_as_tasks(log, columns)
    if not found:
        raise _no_losses(log, columns, pattern or "val_loss/code")
    if not tasks:
        single = {task: name for task, name in found.items() if task.strip().lower() not in AGGREGATES}
        found = single if len(single) > 1 else found  # of two tasks, one may well be called that
    unknown = [task for task in tasks or () if task not in found]
    if unknown:
        others = [name for name in columns if says_loss(name) and name not in found.values() and not is_training(name)]
        also = f" Whole columns can be named instead; others with losses are: {', '.join(others)}." if others else ""
        raise UserError(
            f"`read_losses.tasks` must name tasks of {log.name}; it has no {', '.join(unknown)}.",
            f"The tasks are: {', '.join(found)}.{also}",
        )
    return {task: found[task] for task in tasks or found}


def _named_as_usual(log: Log, columns: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    families = held_out_families(columns)
    families = {pattern: group for pattern, group in families.items() if len(group) > 1} or families
    families = {pattern: group for pattern, group in families.items() if {*tasks} <= group.keys()} or families
    if len(families) > 1:
        lines = "".join(f"\n  --pattern '{pattern}'   tasks: {listed(group)}" for pattern, group in families.items())
        raise UserError(f"{log.name} holds {len(families)} kinds of losses for each task.", f"Choose one:{lines}")
    return next(iter(families.values()), {})


def _named_as_tasks(log: Log, columns: Sequence[str]) -> dict[str, str]:
    possible = [name for name in columns if log.bare and may_be_task(name)]
    bare = [name for name in possible if any(row.holds_number(name) for row in log.rows)]
    losses = [name for name in bare if says_loss(name)]
    return {name: name for name in (losses if len(losses) > 1 else bare)}


def _no_losses(log: Log, columns: Sequence[str], looked_for: str) -> UserError:
    hint = ""
    if trained := [name for name in columns if is_training(name) and says_loss(name)]:
        hint += f"It holds training losses ({listed(trained, 4)}), and CoBa steers by held-out ones. "
    if of_all := [name for name in columns if name.strip().lower() in OF_ALL_TASKS - {"loss"}]:
        hint += f"`{of_all[0]}` is one loss of all tasks together; each task needs one of its own. "
    return UserError(
        f"{log.name} holds no held-out losses under a name such as {looked_for}.",
        f"{hint}Say how they are called with --pattern 'NAME/{{task}}', or list columns with --tasks a,b. The names "
        f"are: {listed(columns, 30) or 'none'}.",
    )
