"""How long the rows are in tokens, and which of them do not fit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lightning_coba.data.reading.row_cache import RowTable
from lightning_coba.data.reading.task import SPLITS
from lightning_coba.data.tokens.corpus import LEAST_SHARE_CUT
from lightning_coba.data.tokens.encoding import TEXT_COLUMNS, Encoder
from lightning_coba.inspection.findings import Fault, Finding, finding, listed, warning_from
from lightning_coba.inspection.inspected_task import InspectedTask

#: Held-out losses of fewer rows are too noisy for the slope of a task.
FEWEST_HELD_OUT_ROWS = 30
_UNCUT = 2**30


def uncut_lengths(table: RowTable, rows: np.ndarray, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return how many tokens some rows would have if none were too long, and how many are learned, int32 ``[rows]``."""
    texts = table.store.table.select(TEXT_COLUMNS).take(pa.array(rows))
    encoded = Encoder(tokenizer, _UNCUT, table.origins)(texts)
    return encoded.column("num_tokens").to_numpy(), encoded.column("num_learned").to_numpy()


def size_findings(tasks: Sequence[InspectedTask]) -> list[Finding]:
    """Return which held-out splits are small, and which are carved from train."""
    found = []
    for split in ("validation", "test"):
        sizes = {task.name: len(task.kept[split]) for task in tasks}
        small = [f"{task} ({rows})" for task, rows in sizes.items() if rows < FEWEST_HELD_OUT_ROWS]
        if small:
            found.append(finding(f"small {split}", fewest=FEWEST_HELD_OUT_ROWS, tasks=listed(small)))
        carved = [task.name for task in tasks if split in task.carved]
        if carved:
            found.append(finding("carved", split=split, tasks=listed(carved)))
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
    over, cut = (rows[task.tokens.numbers(name)[rows] > 0] for name in ("overlong", "num_lost"))
    faults = []
    if len(over):
        stops = overlong == "error"
        cure = _overlong_cure(int(totals[over].max()), int(task.completion_tokens[over].max()), stops, context)
        facts: dict[str, Any] = {"max_length": max_length, "dropped": "" if stops else ": dropped", "cure": cure}
        faults.append((finding("overlong", level="error" if stops else "warning", **facts), over))
    if len(cut):
        longest, share = int(totals[cut].max()), len(cut) / len(rows)
        facts = {
            "max_length": max_length,
            "lost": longest - max_length,
            "cure": _cut_cure(longest, max_length, context),
        }
        faults.append((finding("cut", level=warning_from(LEAST_SHARE_CUT, share), share=share, **facts), cut))
    return faults if context is None else [*faults, _beyond_context(task, overlong, context)]


def _beyond_context(task: InspectedTask, overlong: str, context: int) -> Fault:
    rows = np.sort(np.concatenate([task.kept[split] for split in SPLITS]))
    lengths = task.tokens.numbers("num_tokens")[rows]
    over = rows[lengths > context]
    unfit = int((task.completion_tokens[over] >= context).sum())
    option = "are then dropped" if overlong == "drop" else "need data.overlong=drop"
    also = f" {unfit} of them, whose completion does not fit, {option}, or must be shortened." if unfit else ""
    return finding("beyond the context", context=context, longest=lengths.max(initial=0), unfit=also), over


def _overlong_cure(longest: int, completion: int, stops: bool, context: int | None) -> str:
    otherwise = "data.overlong=drop" if stops else "shorten them"
    room = _more_room(longest, completion + 1, context)
    if room:
        return f"{room}, or {otherwise}."
    return f"{'Set data.overlong=drop, or shorten' if stops else 'Shorten'} them: the model's context is {context}."


def _cut_cure(longest: int, max_length: int, context: int | None) -> str:
    room = _more_room(longest, max_length + 1, context)
    return f"{room}, if memory allows." if room else f"Shorten them: the model's context is {context}."


def _more_room(longest: int, least: int, context: int | None) -> str:
    """Return the setting that holds the longest row, or all that the model reads; nothing where that is too little."""
    if context is None or longest <= context:
        with_room = min(-(-longest // 64) * 64, context or _UNCUT)
        return f"Set data.max_length={with_room}, which holds the longest ({longest})"
    return f"Set data.max_length={context}, the model's context" if least <= context else ""
