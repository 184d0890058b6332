"""All rows of all tasks, read, split and tokenised once: what every loader draws from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from lightning_coba.data.sources import Row, read_split
from lightning_coba.data.splits import Overlap, Splits, carve, disjoint, fixed_subset
from lightning_coba.data.task import SPLITS, Task
from lightning_coba.data.tokenization import Overlong, TokenizedRows, tokenize


@dataclass(frozen=True)
class Corpus:
    """Tokenised tasks; lists are in task order, and row i of ``rows`` is row i of ``tokens``.

    Attributes:
        tasks: task names, K of them.
        rows: split -> task -> rows as text.
        tokens: split -> task -> rows as token ids.
        shown: split -> task -> indices of the rows that are evaluated; all of them for train.
        num_overlapping: task -> rows that were dropped because their prompt is in a later split.
    """

    tasks: tuple[str, ...]
    rows: dict[str, list[list[Row]]]
    tokens: dict[str, list[TokenizedRows]]
    shown: dict[str, list[list[int]]]
    num_overlapping: dict[str, int]

    def pairs(self, split: str, task: int | None = None) -> list[tuple[int, int]]:
        """Return the (task, row) pairs that are shown of a split; of one task, or of all in task order."""
        tasks = range(len(self.tasks)) if task is None else (task,)
        return [(index, row) for index in tasks for row in self.shown[split][index]]

    def sizes(self) -> dict[str, dict[str, int]]:
        """Return split -> task -> number of rows (of which a fixed subset may be shown)."""
        return {split: dict(zip(self.tasks, map(len, self.rows[split]), strict=True)) for split in SPLITS}

    def summary(self) -> Table:
        """Return a table of what was read: one line per task.

        ``64/300`` is a fixed subset of 64 rows of 300; *cut* counts prompts shortened on the left, *dropped* rows left
        out because their prompt is in another split or their completion does not fit.
        """
        table = Table(title="Rows of each task; tokens of the mean training row")
        table.add_column("task", no_wrap=True)
        # Narrow enough for the 80 columns of a log file.
        for heading in ("train", "validation", "test", "prompt", "completion", "cut", "dropped"):
            table.add_column(heading, justify="right", no_wrap=True)
        for index, task in enumerate(self.tasks):
            parts = [self.tokens[split][index] for split in SPLITS]
            dropped = self.num_overlapping[task] + sum(part.num_dropped for part in parts)
            cells = [
                *(self._share(split, index) for split in SPLITS),
                f"{parts[0].prompt_lengths.double().mean():.1f}",
                f"{parts[0].completion_tokens.double().mean():.1f}",
                str(sum(part.num_cut_prompts for part in parts)),
                str(dropped),
            ]
            table.add_row(task, *cells)
        return table

    def _share(self, split: str, task: int) -> str:
        total, shown = len(self.rows[split][task]), len(self.shown[split][task])
        return str(total) if shown == total else f"{shown}/{total}"


def load_corpus(
    tasks: Sequence[Task],
    tokenizer: Any,
    max_length: int,
    validation_rows: int | None = None,
    test_rows: int | None = None,
    overlong: Overlong = "error",
    overlap: Overlap = "drop",
) -> Corpus:
    """Read, split, check and tokenise the tasks.

    Args:
        tasks: at least one, with different names.
        tokenizer: a Hugging Face tokenizer.
        max_length: tokens per row.
        validation_rows: size of the fixed validation subset per task; ``None`` = all.
        test_rows: the same for test.
        overlong: see `tokenize`.
        overlap: see `disjoint`.

    Raises:
        FileNotFoundError: A path leads nowhere.
        ValueError: A row, a split or a length is not usable; the message names file and line.
    """
    splits, num_overlapping = disjoint({task.name: _read(task) for task in tasks}, overlap)
    rows: dict[str, list[list[Row]]] = {split: [] for split in SPLITS}
    tokens: dict[str, list[TokenizedRows]] = {split: [] for split in SPLITS}
    shown: dict[str, list[list[int]]] = {split: [] for split in SPLITS}
    limits = {"train": None, "validation": validation_rows, "test": test_rows}
    for task in tasks:
        for split in SPLITS:
            texts = splits[task.name][split]
            encoded = tokenize(texts, tokenizer, max_length, overlong, f"{task.name}/{split}")
            kept = [texts[index] for index in encoded.kept.tolist()]
            tokens[split].append(encoded)
            rows[split].append(kept)
            shown[split].append(fixed_subset(kept, limits[split]))
    return Corpus(tuple(task.name for task in tasks), rows, tokens, shown, num_overlapping)


def _read(task: Task) -> Splits:
    given = {split: read_split(task, split) for split in SPLITS if getattr(task, split) is not None}
    return carve(task.name, given)


def by_length(pairs: Sequence[tuple[int, int]], tokens: Sequence[TokenizedRows]) -> torch.Tensor:
    """Sort (task, row) pairs by their number of tokens, int64 ``[rows, 2]``: the least padding.

    The longest come first, so that a batch that does not fit into memory fails at once.
    """
    lengths = [task.lengths.tolist() for task in tokens]
    return torch.tensor(sorted(pairs, key=lambda pair: -lengths[pair[0]][pair[1]]))
