"""Faults of the texts themselves: white space, encoding, duplicates, contradictions, and unbalanced labels."""

import shlex
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightning_coba.data.reading.task import SPLITS
from lightning_coba.inspection.findings import Fault, Finding, counted, finding, listed, warning_from
from lightning_coba.inspection.inspected_task import InspectedTask

_BLANK = r"[\s\p{Z}]"  # RE2's \s is ASCII alone
#: Kind of finding -> what shows it. Mojibake is UTF-8 that was read as Windows-1252 or Latin-1.
_CHARACTERS = {
    "wrong encoding": "�",
    "mojibake": "Ã[\u0080-\u00bf]|â€|Â[\u0080-\u00bf]|Ð[\u0080-\u00bf]Ñ",
    "control characters": "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f\u0080-\u0084\u0086-\u009f]",
}
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two completions become one


def label_findings(task: InspectedTask) -> list[Finding]:
    """Return what the labels of a task call for, where its completions are labels."""
    if not task.labels:
        return []
    found = []
    if unseen := task.unseen_labels:
        labels = counted(len(unseen), "label")
        found.append(finding("unseen labels", task.name, labels=labels, unseen=listed(map(repr, unseen))))
    label, count = next(iter(task.labels.items()))
    share = count / len(task.kept["train"])
    if len(task.labels) == 1:
        found.append(finding("one label", task.name, label=label))
    elif share >= 0.8:
        found.append(finding("frequent label", task.name, label=label, share=share))
    return found


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
    rule = task.prompt_rule if "{" in task.prompt_rule else f"{{{task.prompt_rule}}}"
    typed = shlex.quote(f"{rule}\n".replace("\n", "\\n"))
    yield finding("empty prompt"), rows[empty]
    yield finding("prompt without an end", typed=typed), rows[~empty & ~blank_end & ~blank_start]
    yield finding("white space twice"), rows[blank_end & _matching(completions, r"^( \S|[\r\n])")]
    yield finding("white space at the end"), rows[_matching(completions, rf"{_BLANK}$")]


def _character_faults(task: InspectedTask) -> Iterator[Fault]:
    texts = [task.texts(column, task.rows) for column in ("prompt", "completion")]
    for kind, pattern in _CHARACTERS.items():
        yield finding(kind), task.rows[_matching(texts[0], pattern) | _matching(texts[1], pattern)]


def _matching(texts: pa.Array, pattern: str) -> np.ndarray:
    return pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)


def _repetitions(task: InspectedTask) -> Iterator[Fault]:
    """Compare the rows within each split; between splits see `shared_prompts`."""
    for split in SPLITS:
        again = np.ones(len(task.splits.rows[split]), dtype=bool)
        again[_first_of_each(task, split)] = False
        share = again.mean()
        kind = finding("repetition", level=warning_from(0.05, share), split=split, share=share)
        yield kind, task.splits.rows[split][again]


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
        facts = {"prompts": counted(int((counts > 1).sum()), "prompt"), "rows": counted(len(places)), "share": share}
        place = f"{task.origin(first)} and {task.origin(partner).rpartition('/')[2]}"  # the file was named before
        level = warning_from(0.05, share)
        found.append(finding("contradiction", task.name, place, level, split=split, **facts))
    return found


def _first_of_each(task: InspectedTask, split: str) -> np.ndarray:
    """Return the places within a split at which a pair of prompt and completion occurs first."""
    rows = task.splits.rows[split]
    codes = task.completion_codes[rows].astype(np.uint64) * _SPREAD
    return np.unique(task.splits.identity[rows] ^ codes, return_index=True)[1]
