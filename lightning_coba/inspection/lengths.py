"""How long the rows are in tokens, and which of them do not fit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_coba.data.reading.task import SPLITS
from lightning_coba.inspection.findings import Finding
from lightning_coba.inspection.inspected_task import InspectedTask, counted, listed

#: Held-out losses of fewer rows are too noisy for the slope of a task.
FEWEST_HELD_OUT_ROWS = 30


@dataclass(frozen=True, eq=False)
class SplitFacts:
    """Sizes of one split of a task.

    Attributes:
        task: its name.
        split: which.
        rows: how many training keeps.
        shown: how many of them are evaluated.
        carved: whether it was carved from train.
        prompt_tokens: of each row that is kept, before anything is cut, int64 ``[rows]``.
        completion_tokens: the same of what is learned.
        cut: rows that lose tokens of their prompt.
        overlong: rows whose completion does not fit.
        dropped: rows left out because their prompt is held out elsewhere.
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


def split_facts(task: InspectedTask, limits: dict[str, int | None]) -> list[SplitFacts]:
    """Return the sizes of each split.

    Args:
        task: as it was read.
        limits: split -> how many rows are evaluated; ``None`` = all.
    """
    facts = []
    overlong, cut = task.tokens.numbers("overlong"), task.tokens.numbers("cut")
    for split in SPLITS:
        before, kept = task.splits.rows[split], task.kept[split]
        too_long = int(overlong[before].sum())
        limit = limits[split]
        facts.append(
            SplitFacts(
                task.name,
                split,
                len(kept),
                len(kept) if limit is None else min(limit, len(kept)),
                split not in task.own,
                task.prompt_tokens[kept],
                task.completion_tokens[kept],
                int(cut[kept].sum()),
                too_long,
                len(before) - len(kept) - too_long,
            )
        )
    return facts


def size_findings(facts: Sequence[SplitFacts]) -> list[Finding]:
    """Return which held-out splits are small, and which are carved from train."""
    found = []
    for split, level, why in (
        ("validation", "warning", "its loss is noisy, and so is the slope that steers"),
        ("test", "note", "its loss says little"),
    ):
        small = [fact for fact in facts if fact.split == split and fact.rows < FEWEST_HELD_OUT_ROWS]
        if small:
            told = listed(f"{fact.task} ({fact.rows})" for fact in small)
            what = f"{split} has fewer than {FEWEST_HELD_OUT_ROWS} rows in {told}: {why}"
            found.append(Finding(level, "", what, f"Hold out more: a file {split}.jsonl of its own, or more rows."))  # type: ignore[arg-type]
        carved = [fact.task for fact in facts if fact.split == split and fact.carved]
        if carved:
            what = f"{split} of {listed(carved)} is carved from train: a tenth, always the same rows"
            found.append(Finding("note", "", what, f"Give a file {split}.jsonl to choose the rows yourself."))
    return found


def length_findings(task: InspectedTask, max_length: int, overlong: str, context: int | None = None) -> list[Finding]:
    """Return which rows of a task are too long for ``max_length``."""
    found = []
    rows = task.rows
    totals = task.prompt_tokens + task.completion_tokens
    over = rows[task.tokens.numbers("overlong")[rows]]
    cut = rows[task.tokens.numbers("cut")[rows]]
    if len(over):
        longest = int(totals[over].max())
        stops = overlong == "error"
        found.append(
            Finding(
                "error" if stops else "warning",
                task.name,
                f"{counted(len(over))} with a completion that does not fit into max_length={max_length} tokens"
                + ("" if stops else ": dropped"),
                _overlong_cure(longest, int(task.completion_tokens[over].max()), stops, context),
                task.origin(over[0]),
            )
        )
    if len(cut):
        longest, share = int(totals[cut].max()), len(cut) / len(rows)
        found.append(
            Finding(
                "warning" if share >= 0.01 else "note",
                task.name,
                f"{counted(len(cut))} ({share:.1%}) longer than max_length={max_length} tokens: they lose the "
                f"beginning of their prompt (up to {longest - max_length} tokens)",
                _cut_cure(longest, max_length, context),
                task.origin(cut[0]),
            )
        )
    return found


def context_findings(task: InspectedTask, overlong: str, context: int | None) -> list[Finding]:
    """Return which rows that training keeps are longer than the model's context, where training would stop."""
    rows = np.sort(np.concatenate([task.kept[split] for split in SPLITS]))
    lengths = task.tokens.numbers("num_tokens")[rows]
    over = rows[lengths > context] if context is not None else rows[:0]
    if context is None or not len(over):
        return []
    cure = f"Set data.max_length={context}: longer prompts then lose their beginning."
    unfit = int((task.completion_tokens[over] >= context).sum())
    if unfit:
        option = "are then dropped" if overlong == "drop" else "need data.overlong=drop"
        cure += f" {unfit} of them, whose completion does not fit, {option}, or must be shortened."
    what = f"{counted(len(over))} longer than the model's context of {context} tokens (up to {lengths.max()})"
    return [Finding("error", task.name, what, cure, task.origin(over[0]))]


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
