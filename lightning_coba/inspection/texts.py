"""Faults of the texts themselves: white space, encoding, duplicates, contradictions, and unbalanced labels."""

import shlex
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightning_coba.data.reading.task import SPLITS
from lightning_coba.inspection.findings import Fault, Finding, counted, listed, warning_from
from lightning_coba.inspection.inspected_task import InspectedTask

_BLANK = r"[\s\p{Z}]"  # RE2's \s is ASCII alone
#: Pattern -> what it shows, and the cure. Mojibake is UTF-8 that was read as Windows-1252 or Latin-1.
_CHARACTERS = {
    "�": ("with � (U+FFFD), the trace of a wrong encoding", "Export the text again."),
    "Ã[\u0080-\u00bf]|â€|Â[\u0080-\u00bf]|Ð[\u0080-\u00bf]Ñ": (
        "with mojibake such as 'Ã©' for 'é': UTF-8 that was read as Latin-1",
        "Export it as UTF-8.",
    ),
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f\u0080-\u0084\u0086-\u009f]": (
        "with control characters",
        "Delete these characters.",
    ),
}
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two completions become one


def label_findings(task: InspectedTask) -> list[Finding]:
    """Return what the labels of a task call for, where its completions are labels."""
    told: list[tuple[str, str]] = []
    if not task.labels:
        return []
    if task.unseen_labels:
        unseen = listed(map(repr, task.unseen_labels))
        what = f"{counted(len(task.unseen_labels), 'label')} of test that train lacks: {unseen}"
        told.append((what, "Add training rows of them, or take the rows out of test."))
    first, count = next(iter(task.labels.items()))
    share = count / len(task.kept["train"])
    if len(task.labels) == 1:
        what = f"every completion is {first!r}: the model learns to ignore the prompt"
        told.append((what, "Name the column that differs: data.completion=NAME."))
    elif share >= 0.8:
        what = f"{share:.0%} of the training rows have the label {first!r}"
        told.append((what, "Judge by more than accuracy; add rows of the others, or fewer of this one."))
    return [Finding("warning", task.name, what, cure) for what, cure in told]


def text_faults(task: InspectedTask) -> list[Fault]:
    """Return the rows whose prompts and completions are odd, or that repeat another one."""
    return [*_joint_faults(task), *_character_faults(task), *_repetitions(task)]


def _joint_faults(task: InspectedTask) -> Iterator[Fault]:
    """Check where a prompt ends and its completion begins: the model reads one straight after the other."""
    rows = task.rows[~task.is_chat[task.rows]]
    prompts, completions = task.texts("prompt", rows), task.texts("completion", rows)
    empty = _matching(prompts, rf"^{_BLANK}*$")
    blank_end = _matching(prompts, rf"{_BLANK}$")
    blank_start = _matching(completions, rf"^{_BLANK}")
    yield Fault(
        "warning",
        rows[empty],
        "with an empty prompt: the completion is learned from nothing",
        "Fill them in, or delete the rows.",
    )
    rule = task.prompt_rule if "{" in task.prompt_rule else f"{{{task.prompt_rule}}}"
    typed = shlex.quote(f"{rule}\n".replace("\n", "\\n"))
    yield Fault(
        "warning",
        rows[~empty & ~blank_end & ~blank_start],
        "with a prompt that ends without a space or line break: the completion follows straight on its last letter",
        f"Set data.prompt={typed} (where tasks are listed one by one: prompt of the task), or end the prompts so.",
    )
    yield Fault(
        "note",
        rows[blank_end & _matching(completions, r"^( \S|[\r\n])")],
        "with a completion that begins with white space although the prompt ends with it",
        "Take it from one of the two; the model learns to write it.",
    )
    yield Fault(
        "note",
        rows[_matching(completions, rf"{_BLANK}$")],
        "with a completion that ends with white space, which the model learns to write",
        "Strip it.",
    )


def _character_faults(task: InspectedTask) -> Iterator[Fault]:
    texts = [task.texts(column, task.rows) for column in ("prompt", "completion")]
    for pattern, (what, cure) in _CHARACTERS.items():
        hit = _matching(texts[0], pattern) | _matching(texts[1], pattern)
        yield Fault("warning", task.rows[hit], what, cure)


def _matching(texts: pa.Array, pattern: str) -> np.ndarray:
    return pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)


def _repetitions(task: InspectedTask) -> Iterator[Fault]:
    """Compare the rows within each split; between splits see `shared_prompts`."""
    for split in SPLITS:
        again = np.ones(len(task.splits.rows[split]), dtype=bool)
        again[_first_of_each(task, split)] = False
        share = again.mean()
        yield Fault(
            warning_from(0.05, share),
            task.splits.rows[split][again],
            f"of {split} repeat an earlier row, prompt and completion ({share:.1%})",
            "Delete them: what is repeated is learned by heart, and counts twice.",
        )


def contradiction_findings(task: InspectedTask) -> list[Finding]:
    """Return where, within a split, rows with equal prompts have different completions."""
    found = []
    for split in SPLITS:
        rows = np.sort(task.splits.rows[split][_first_of_each(task, split)])
        _, inverse, counts = np.unique(task.splits.identity[rows], return_inverse=True, return_counts=True)
        places = np.flatnonzero(counts[inverse] > 1)
        if not len(places):
            continue
        first, partner = rows[inverse == inverse[places[0]]][:2]
        share = len(places) / len(rows)
        what = (
            f"{counted(int((counts > 1).sum()), 'prompt')} of {split} (case and spaces apart) with different "
            f"completions ({counted(len(places))}, {share:.1%})"
        )
        cure = "Keep one, if only one is right; a prompt that lacks what tells them apart cannot be learned."
        place = f"{task.origin(first)} and {task.origin(partner).rpartition('/')[2]}"  # the file was named before
        found.append(Finding(warning_from(0.05, share), task.name, what, cure, place))
    return found


def _first_of_each(task: InspectedTask, split: str) -> np.ndarray:
    """Return the places within a split at which a pair of prompt and completion occurs first."""
    rows = task.splits.rows[split]
    codes = task.completion_codes[rows].astype(np.uint64) * _SPREAD
    return np.unique(task.splits.identity[rows] ^ codes, return_index=True)[1]
