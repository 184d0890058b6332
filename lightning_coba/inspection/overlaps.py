"""What splits and tasks have in common that they should not."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pyarrow.compute as pc

from lightning_coba.data.tokens.splits import SharedPrompts, Splits
from lightning_coba.inspection.findings import Finding, counted, finding, warning_from
from lightning_coba.inspection.inspected_task import InspectedTask

#: Completions from this many characters on are no labels: to meet one again in test is to have seen the answer.
LONG_COMPLETION = 40


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
        level = "error" if stops else warning_from(0.02, len(one.rows) / len(splits[one.task].rows[one.split]))
        place = f"{splits[one.task].origin(int(one.rows[0]))} and {splits[one.other_task].origin(one.other_row)}"
        facts = {"rows": counted(len(one.rows)), "split": one.split, "other": other, "done": done, "cure": cure}
        found.append(finding("shared prompts", one.task, place, level, **facts))
    return found


def emptied_findings(splits: Mapping[str, Splits], shared: Sequence[SharedPrompts]) -> list[Finding]:
    """Return an error for each split of which nothing would be left."""
    found = []
    for task, own in splits.items():
        for split, rows in own.rows.items():
            if sum(len(one.rows) for one in shared if (one.task, one.split) == (task, split)) == len(rows):
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


def known_answer_findings(task: InspectedTask) -> list[Finding]:
    """Return how many long completions of test are completions of train too."""
    train, test = task.kept["train"], task.kept["test"]
    long = test[pc.utf8_length(task.texts("completion", test)).to_numpy() >= LONG_COMPLETION]
    known = long[np.isin(task.completion_codes[long], task.completion_codes[train])]
    if not len(known):
        return []
    facts = {"rows": len(known), "share": len(known) / len(test), "characters": LONG_COMPLETION}
    level = warning_from(0.05, facts["share"])
    return [finding("known answers", task.name, task.origin(known[0]), level, **facts)]
