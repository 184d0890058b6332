"""Faults of the texts themselves: white space, encoding, duplicates, contradictions, and unbalanced labels."""

import shlex
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightning_coba.data.reading.task import SPLITS
from lightning_coba.inspection.findings import Finding
from lightning_coba.inspection.inspected_task import InspectedTask, counted, listed

_BLANK = r"[\s\p{Z}]"  # RE2's \s is ASCII alone
_REPLACEMENT = "�"
#: UTF-8 that was read as Windows-1252 or Latin-1.
_MOJIBAKE = "Ã[\u0080-\u00bf]|â€|Â[\u0080-\u00bf]|Ð[\u0080-\u00bf]Ñ"
_CONTROL = "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f\u0080-\u0084\u0086-\u009f]"
_MOST_LABELS = 200
_LONGEST_LABEL = 60
_ROWS_PER_LABEL = 5
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two completions become one


@dataclass(frozen=True)
class LabelFacts:
    """The labels of a task whose completions are few and short.

    Attributes:
        task: its name.
        counts: label -> training rows, most frequent first.
        majority: share of the most frequent label in train.
        unseen: labels of the test split that train lacks.
    """

    task: str
    counts: dict[str, int]
    majority: float
    unseen: tuple[str, ...]


def text_findings(task: InspectedTask) -> list[Finding]:
    """Return what is odd about a task's prompts and completions."""
    return [*_joints(task), *_characters(task), *_repetitions(task)]


def label_facts(task: InspectedTask) -> LabelFacts | None:
    """Return the labels of a task; None where its completions are texts."""
    train = task.completions.take(pa.array(task.kept["train"]))
    counted = pc.value_counts(train)
    values, counts = counted.field("values"), counted.field("counts")
    few = len(values) <= min(_MOST_LABELS, len(train) / _ROWS_PER_LABEL)
    if not few or pc.max(pc.utf8_length(values)).as_py() > _LONGEST_LABEL:
        return None
    order = np.argsort(-counts.to_numpy(), kind="stable")
    ordered = {values[int(i)].as_py(): counts[int(i)].as_py() for i in order}
    tested = pc.unique(task.completions.take(pa.array(task.kept["test"]))).to_pylist()
    unseen = tuple(label for label in tested if label not in ordered)
    return LabelFacts(task.name, ordered, next(iter(ordered.values())) / len(train), unseen)


def label_findings(labels: LabelFacts) -> list[Finding]:
    """Return what the labels of a task call for."""
    found = []
    if labels.unseen:
        found.append(
            Finding(
                "warning",
                labels.task,
                f"{len(labels.unseen)} labels of test never occur in train: {listed(map(repr, labels.unseen))}",
                "Add training rows of them, or take the rows out of test.",
            )
        )
    if len(labels.counts) == 1:
        found.append(
            Finding(
                "warning",
                labels.task,
                f"every completion is {next(iter(labels.counts))!r}: the model learns to ignore the prompt",
                "Name the column that differs: --completion.",
            )
        )
    elif labels.majority >= 0.8:
        found.append(
            Finding(
                "warning",
                labels.task,
                f"{labels.majority:.0%} of the training rows have the label {next(iter(labels.counts))!r}",
                "Judge by more than accuracy; add rows of the others, or fewer of this one.",
            )
        )
    return found


def _joints(task: InspectedTask) -> list[Finding]:
    """Check where a prompt ends and its completion begins: the model reads one straight after the other."""
    rows = task.rows[~task.is_chat[task.rows]]
    if not len(rows):
        return []
    prompts, completions = task.prompts.take(pa.array(rows)), task.completions.take(pa.array(rows))
    empty = _matching(prompts, rf"^{_BLANK}*$")
    blank_end = _matching(prompts, rf"{_BLANK}$")
    blank_start = _matching(completions, rf"^{_BLANK}")
    rule = task.prompt_rule if "{" in task.prompt_rule else f"{{{task.prompt_rule}}}"
    typed = shlex.quote(f"{rule}\n".replace("\n", "\\n"))
    found = []
    found += _finding(
        task, rows[empty], "warning", "with an empty prompt: the completion is learned from nothing",
        "Fill them in, or delete the rows.",
    )  # fmt: skip
    found += _finding(
        task, rows[~empty & ~blank_end & ~blank_start], "warning",
        "with a prompt that ends without a space or line break: the completion follows straight on its last letter",
        f"Set data.prompt={typed} (where tasks are listed one by one: prompt of the task), or end the prompts so.",
    )  # fmt: skip
    found += _finding(
        task, rows[blank_end & _matching(completions, r"^( \S|[\r\n])")], "note",
        "with a completion that begins with white space although the prompt ends with it",
        "Take it from one of the two; the model learns to write it.",
    )  # fmt: skip
    found += _finding(
        task, rows[_matching(completions, rf"{_BLANK}$")], "note",
        "with a completion that ends with white space, which the model learns to write", "Strip it.",
    )  # fmt: skip
    return found


def _characters(task: InspectedTask) -> list[Finding]:
    rows = task.rows
    texts = [task.prompts.take(pa.array(rows)), task.completions.take(pa.array(rows))]
    found = []
    for pattern, what, cure in (
        (_REPLACEMENT, f"with {_REPLACEMENT} (U+FFFD), the trace of a wrong encoding", "Export the text again."),
        (_MOJIBAKE, "with mojibake such as 'Ã©' for 'é': UTF-8 that was read as Latin-1", "Export it as UTF-8."),
        (_CONTROL, "with control characters", "Delete these characters."),
    ):
        hit = _matching(texts[0], pattern) | _matching(texts[1], pattern)
        found += _finding(task, rows[hit], "warning", what, cure)
    return found


def _repetitions(task: InspectedTask) -> list[Finding]:
    """Compare the rows within each split; between splits see `shared_prompts`."""
    found = []
    for split in SPLITS:
        rows = task.splits.rows[split]
        codes = task.completion_codes[rows].astype(np.uint64) * _SPREAD
        first = np.unique(task.splits.identity[rows] ^ codes, return_index=True)[1]
        again = np.ones(len(rows), dtype=bool)
        again[first] = False
        share = again.mean() if len(rows) else 0.0
        found += _finding(
            task, rows[again], "warning" if share >= 0.05 else "note",
            f"of {split} repeat an earlier row, prompt and completion ({share:.1%})",
            "Delete them: what is repeated is learned by heart, and counts twice.",
        )  # fmt: skip
        found += _contradictions(task, split, rows[np.sort(first)])
    return found


def _contradictions(task: InspectedTask, split: str, rows: np.ndarray) -> list[Finding]:
    """Look for equal prompts among rows that differ."""
    rows = np.sort(rows)  # a carved split is in the order of its hashes
    _, inverse, counts = np.unique(task.splits.identity[rows], return_inverse=True, return_counts=True)
    places = np.flatnonzero(counts[inverse] > 1)
    if not len(places):
        return []
    several = rows[places]
    prompts = int((counts > 1).sum())
    share = len(several) / len(rows)
    partner = rows[inverse == inverse[places[0]]][1]
    return [
        Finding(
            "warning" if share >= 0.05 else "note",
            task.name,
            f"{counted(prompts, 'prompt')} of {split} (case and spaces apart) with different completions "
            f"({counted(len(several))}, {share:.1%})",
            "Keep one, if only one is right; a prompt that lacks what tells them apart cannot be learned.",
            f"{task.origin(several[0])} and {_short(task.origin(partner))}",
        )
    ]


def _short(origin: str) -> str:
    """Return the line of an origin, where the file was named before."""
    return origin.rpartition("/")[2]


def _matching(texts: pa.Array, pattern: str) -> np.ndarray:
    return pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)


def _finding(task: InspectedTask, rows: np.ndarray, level: str, what: str, cure: str) -> list[Finding]:
    if not len(rows):
        return []
    return [Finding(level, task.name, f"{counted(len(rows))} {what}", cure, task.origin(rows[0]))]  # type: ignore[arg-type]
