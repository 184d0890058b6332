"""What splits and tasks have in common that they should not."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightning_coba.data.tokens.splits import SharedPrompts, Splits
from lightning_coba.inspection.findings import Finding
from lightning_coba.inspection.inspected_task import InspectedTask, counted

#: Completions from this many characters on are no labels: to meet one again in test is to have seen the answer.
_LONG_COMPLETION = 40


def shared_prompt_findings(
    shared: Sequence[SharedPrompts], splits: Mapping[str, Splits], overlap: str
) -> list[Finding]:
    """Return a finding for each pair of splits that share prompts.

    Args:
        shared: see `shared_prompts`.
        splits: task name -> its splits.
        overlap: what training does about it: ``"drop"`` or ``"error"``.
    """
    found = []
    for one in shared:
        rows = len(splits[one.task].rows[one.split])
        done = "training stops at the first" if overlap == "error" else f"they are dropped from {one.split}"
        other = one.other_split if one.other_task == one.task else f"{one.other_task}/{one.other_split}"
        cure = "Delete them on one side"
        if one.other_task != one.task:
            cure += ", or name the task in its prompts (data.prompt='...')"
        found.append(
            Finding(
                "error" if overlap == "error" else "warning" if one.num_rows / rows >= 0.02 else "note",
                one.task,
                f"{counted(one.num_rows)} of {one.split} with a prompt of {other}: {done}",
                f"{cure}, or set data.overlap=drop." if overlap == "error" else f"{cure}.",
                f"{splits[one.task].origin(one.row)} and {splits[one.other_task].origin(one.other_row)}",
            )
        )
    return found


def emptied_findings(splits: Mapping[str, Splits], shared: Sequence[SharedPrompts]) -> list[Finding]:
    """Return an error for each split of which nothing would be left."""
    found = []
    for task, own in splits.items():
        for split, rows in own.rows.items():
            lost = sum(one.num_rows for one in shared if (one.task, one.split) == (task, split))
            if lost == len(rows):
                found.append(
                    Finding(
                        "error",
                        task,
                        f"nothing is left of {split}: all its prompts are held out in another split or task",
                        "Give other rows, or name the task in its prompts.",
                        own.origin(int(rows[0])),
                    )
                )
    return found


def common_train_findings(tasks: Sequence[InspectedTask]) -> list[Finding]:
    """Return where two tasks are trained on the same prompts: the model cannot know which of them is asked for."""
    found = []
    hashes = {task.name: np.unique(task.splits.identity[task.kept["train"]]) for task in tasks}
    for number, task in enumerate(tasks):
        for other in tasks[number + 1 :]:
            common = np.intersect1d(hashes[task.name], hashes[other.name], assume_unique=True)
            if not len(common):
                continue
            share = len(common) / min(len(hashes[task.name]), len(hashes[other.name]))
            rows = task.kept["train"]
            first = rows[np.isin(task.splits.identity[rows], common)][0]
            found.append(
                Finding(
                    "warning" if share >= 0.02 else "note",
                    task.name,
                    f"{len(common)} training prompts are also those of {other.name} ({share:.1%} of the smaller): "
                    "nothing tells the model which task is meant",
                    "Name the task in its prompts, such as data.prompt='Summarise: {text}\\n'.",
                    task.origin(first),
                )
            )
    return found


def known_answer_findings(task: InspectedTask) -> list[Finding]:
    """Return how many long completions of test are completions of train too."""
    train, test = task.kept["train"], task.kept["test"]
    length = pc.utf8_length(task.completions.take(pa.array(test))).to_numpy()
    long = test[length >= _LONG_COMPLETION]
    known = long[np.isin(task.completion_codes[long], task.completion_codes[train])]
    if not len(known):
        return []
    share = len(known) / len(test)
    return [
        Finding(
            "warning" if share >= 0.05 else "note",
            task.name,
            f"{len(known)} completions of test ({share:.1%}) of {_LONG_COMPLETION} characters or more are in train "
            "too, after other prompts",
            "Look whether the prompts are variants of each other; if so, keep them in one split.",
            task.origin(known[0]),
        )
    ]
