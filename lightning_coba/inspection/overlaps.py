"""What splits and tasks have in common that they should not."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from lightning_coba.data.tokens.splits import SharedPrompts, Splits
from lightning_coba.inspection.findings import Finding, counted, finding, warning_from
from lightning_coba.inspection.inspected_task import InspectedTask


def shared_prompt_findings(
    shared: Sequence[SharedPrompts], splits: Mapping[str, Splits], overlap: str
) -> list[Finding]:
    """Return a finding for each pair of splits that share prompts.

    Args:
        shared: What `shared_prompts` returned.
        splits: Task name -> its splits.
        overlap: What training does about it: ``"drop"`` or ``"error"``.
    """
    found = []
    stops = overlap == "error"
    for one in shared:
        done = "training stops at the first" if stops else f"they are dropped from {one.split}"
        other, cure = one.other_split, "Delete them on one side"
        if one.other_task != one.task:
            other = f"{one.other_task}/{one.other_split}"
            cure += ", or name the task in its prompts (data.prompt='...')"
        if stops:
            cure += ", or set data.overlap=drop"
        level = "error" if stops else warning_from(0.02, one.num_rows / len(splits[one.task].rows[one.split]))
        place = f"{splits[one.task].origin(one.row)} and {splits[one.other_task].origin(one.other_row)}"
        facts = {"rows": counted(one.num_rows), "split": one.split, "other": other, "done": done, "cure": cure}
        found.append(finding("shared prompts", one.task, place, level, **facts))
    return found


def emptied_findings(splits: Mapping[str, Splits], shared: Sequence[SharedPrompts]) -> list[Finding]:
    """Return an error for each split of which nothing would be left."""
    found = []
    for task, own in splits.items():
        for split, rows in own.rows.items():
            if sum(one.num_rows for one in shared if (one.task, one.split) == (task, split)) == len(rows):
                found.append(finding("emptied split", task, own.origin(int(rows[0])), split=split))
    return found


def common_train_findings(tasks: Sequence[InspectedTask]) -> list[Finding]:
    """Return where two tasks are trained on the same prompts: the model cannot know which of them is asked for."""
    found = []
    hashes = {task.name: np.unique(task.splits.identity[task.kept["train"]]) for task in tasks}
    for task, other in combinations(tasks, 2):
        common = np.intersect1d(hashes[task.name], hashes[other.name], assume_unique=True)
        if not len(common):
            continue
        share = len(common) / min(len(hashes[task.name]), len(hashes[other.name]))
        rows = task.kept["train"]
        first = rows[np.isin(task.splits.identity[rows], common)][0]
        facts = {"prompts": len(common), "other": other.name, "share": share}
        level = warning_from(0.02, share)
        found.append(finding("common training prompts", task.name, task.origin(first), level, **facts))
    return found
