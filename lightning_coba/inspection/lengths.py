"""How long the rows are in tokens, and which of them do not fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lightning_coba.data.reading.row_cache import RowTable
from lightning_coba.data.reading.task import SPLITS
from lightning_coba.data.tokens.encoding import TEXT_COLUMNS, Encoder
from lightning_coba.inspection.findings import Fault, Finding, Level, listed, warning_from
from lightning_coba.inspection.inspected_task import InspectedTask

#: Held-out losses of fewer rows are too noisy for the slope of a task.
FEWEST_HELD_OUT_ROWS = 30
_UNCUT = 2**30


def uncut_lengths(table: RowTable, rows: np.ndarray, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return how many tokens some rows would have if none were too long, and how many are learned, int32 ``[rows]``."""
    texts = table.store.table.select(TEXT_COLUMNS).take(pa.array(rows))
    encoded = Encoder(tokenizer, _UNCUT, table.origins)(texts)
    return encoded.column("num_tokens").to_numpy(), encoded.column("num_learned").to_numpy()


@dataclass(frozen=True, eq=False)
class SplitFacts:
    """Sizes of one split of a task.

    Attributes:
        task: Name of the task.
        split: Name of the split.
        rows: Rows that training keeps.
        shown: Rows of these that are evaluated.
        carved: Whether it was carved from train.
        prompt_tokens: Prompt tokens of each row that is kept, before anything is cut, int64 ``[rows]``.
        completion_tokens: The same of what is learned.
        cut: Rows that lose tokens of their prompt.
        overlong: Rows whose completion does not fit.
        dropped: Rows left out because their prompt is held out elsewhere.
    """

    task: str
    split: str
    rows: int
    shown: int
    carved: bool
    prompt_tokens: np.ndarray
    completion_tokens: np.ndarray
    cut: int
    overlong: int
    dropped: int

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each row that is kept, before anything is cut, int64 ``[rows]``."""
        return self.prompt_tokens + self.completion_tokens


def split_facts(task: InspectedTask, limits: Mapping[str, int | None]) -> list[SplitFacts]:
    """Return the sizes of each split.

    Args:
        task: The task as it was read.
        limits: Split -> how many rows are evaluated; ``None`` = all.
    """
    facts = []
    for split in SPLITS:
        before, kept = task.splits.rows[split], task.kept[split]
        overlong = int(task.tokens.numbers("overlong")[before].sum())
        cut = int(task.tokens.numbers("cut")[kept].sum())
        limit = limits[split]
        shown = len(kept) if limit is None else min(limit, len(kept))
        lengths = task.prompt_tokens[kept], task.completion_tokens[kept]
        dropped = len(before) - len(kept) - overlong
        sizes = (len(kept), shown, split in task.carved, *lengths, cut, overlong, dropped)
        facts.append(SplitFacts(task.name, split, *sizes))
    return facts


def size_findings(facts: Sequence[SplitFacts]) -> list[Finding]:
    """Return which held-out splits are small, and which are carved from train."""
    harms: dict[str, tuple[Level, str]] = {
        "validation": ("warning", "its loss is noisy, and so is the slope that steers"),
        "test": ("note", "its loss says little"),
    }
    found = []
    for split, (level, why) in harms.items():
        small = [f"{it.task} ({it.rows})" for it in facts if it.split == split and it.rows < FEWEST_HELD_OUT_ROWS]
        if small:
            what = f"{split} has fewer than {FEWEST_HELD_OUT_ROWS} rows in {listed(small)}: {why}"
            found.append(Finding(level, "", what, f"Hold out more: a file {split}.jsonl of its own, or more rows."))
        carved = [it.task for it in facts if it.split == split and it.carved]
        if carved:
            what = f"{split} of {listed(carved)} is carved from train: a tenth, always the same rows"
            found.append(Finding("note", "", what, f"Give a file {split}.jsonl to choose the rows yourself."))
    return found


def length_faults(task: InspectedTask, max_length: int, overlong: str, context: int | None) -> list[Fault]:
    """Return the rows that ``max_length`` cuts or leaves out, and those that are still beyond the model's context.

    Args:
        task: The task as it was read.
        max_length: Tokens that a row may have.
        overlong: What training does where a completion does not fit: ``"error"`` or ``"drop"``.
        context: Tokens that the model reads at most; ``None`` = not known.
    """
    rows, totals = task.rows, task.prompt_tokens + task.completion_tokens
    over, cut = (rows[task.tokens.numbers(name)[rows]] for name in ("overlong", "cut"))
    faults = []
    if len(over):
        stops = overlong == "error"
        what = f"with a completion that does not fit into max_length={max_length} tokens{'' if stops else ': dropped'}"
        cure = _overlong_cure(int(totals[over].max()), int(task.completion_tokens[over].max()), stops, context)
        faults.append(Fault("error" if stops else "warning", over, what, cure))
    if len(cut):
        longest, share = int(totals[cut].max()), len(cut) / len(rows)
        what = (
            f"longer than max_length={max_length} tokens ({share:.1%} of the task): they lose the beginning of their "
            f"prompt (up to {longest - max_length} tokens)"
        )
        faults.append(Fault(warning_from(0.01, share), cut, what, _cut_cure(longest, max_length, context)))
    return faults if context is None else [*faults, _beyond_context(task, overlong, context)]


def _beyond_context(task: InspectedTask, overlong: str, context: int) -> Fault:
    rows = np.sort(np.concatenate([task.kept[split] for split in SPLITS]))
    lengths = task.tokens.numbers("num_tokens")[rows]
    over = rows[lengths > context]
    cure = f"Set data.max_length={context}: longer prompts then lose their beginning."
    unfit = int((task.completion_tokens[over] >= context).sum())
    if unfit:
        option = "are then dropped" if overlong == "drop" else "need data.overlong=drop"
        cure += f" {unfit} of them, whose completion does not fit, {option}, or must be shortened."
    longest = lengths.max(initial=0)
    return Fault("error", over, f"longer than the model's context of {context} tokens (up to {longest})", cure)


def _overlong_cure(longest: int, completion: int, stops: bool, context: int | None) -> str:
    otherwise = "data.overlong=drop" if stops else "shorten them"
    if context is None or longest <= context:
        return f"Set data.max_length={_rounded(longest, context)}, which holds the longest ({longest}), or {otherwise}."
    if completion < context:
        return f"Set data.max_length={context}, the model's context, or {otherwise}."
    return f"{'Set data.overlong=drop, or shorten' if stops else 'Shorten'} them: the model's context is {context}."


def _cut_cure(longest: int, max_length: int, context: int | None) -> str:
    if context is None or longest <= context:
        return f"Set data.max_length={_rounded(longest, context)} to keep all of it, if memory allows."
    if max_length < context:
        return f"Set data.max_length={context}, the model's context, to keep more of it, if memory allows."
    return f"Shorten them if the beginning matters: the model's context is {context}."


def _rounded(tokens: int, context: int | None) -> int:
    """Return a length with some room, a multiple of 64, or the context if that is less."""
    return min(-(-tokens // 64) * 64, context or 2**30)
