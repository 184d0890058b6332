"""All rows of all tasks, read, split and tokenised once: what every loader draws from."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from rich.table import Table

from lightning_coba.data.reading.arrow_store import ArrowStore
from lightning_coba.data.reading.row_cache import RowTable, row_tables
from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.data.tokens.splits import Overlap, Splits, carve, disjoint, fixed_subset
from lightning_coba.data.tokens.token_cache import token_tables
from lightning_coba.data.tokens.tokenization import Overlong, TokenizedRows, select_rows

#: Share of a task's rows that may lose the beginning of their prompt without a warning.
LEAST_SHARE_CUT = 0.01


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokenised tasks; lists are in task order. Texts and tokens stay on disk until they are asked for.

    Attributes:
        tasks: task names, K of them.
        tokens: split -> task -> rows as token ids.
        shown: split -> task -> indices of the rows that are evaluated, int64; all of them for train.
        num_overlapping: task -> rows that were dropped because their prompt is in a later split.
        texts: the rows of each task as text.
    """

    tasks: tuple[str, ...]
    tokens: dict[str, list[TokenizedRows]]
    shown: dict[str, list[np.ndarray]]
    num_overlapping: dict[str, int]
    texts: list[RowTable]

    def text(self, split: str, task: int, row: int) -> tuple[str, str]:
        """Return the prompt and the completion of a row; of a conversation, all before the last answer and that."""
        return self.texts[task].text(int(self.tokens[split][task].rows[row]))

    def origin(self, split: str, task: int, row: int) -> str:
        """Return where a row came from, such as ``file:line``."""
        return self.texts[task].origin(int(self.tokens[split][task].rows[row]))

    def pairs(self, split: str, task: int | None = None) -> np.ndarray:
        """Return the (task, row) pairs that are shown of a split, int64 ``[rows, 2]``.

        Args:
            split: which split.
            task: of this task alone; ``None`` = of all, in task order.
        """
        tasks = range(len(self.tasks)) if task is None else (task,)
        shown = self.shown[split]
        return np.concatenate([np.stack([np.full_like(shown[k], k), shown[k]], axis=1) for k in tasks])

    def longest_first(self, split: str) -> np.ndarray:
        """Return `pairs` sorted by their number of tokens: the least padding.

        The longest come first, so that a batch that does not fit into memory fails at once.
        """
        parts = zip(self.tokens[split], self.shown[split], strict=True)
        lengths = np.concatenate([rows.lengths[shown] for rows, shown in parts])
        return self.pairs(split)[np.argsort(-lengths, kind="stable")]

    def sizes(self) -> dict[str, dict[str, int]]:
        """Return split -> task -> number of rows (of which a fixed subset may be shown)."""
        return {split: dict(zip(self.tasks, map(len, self.tokens[split]), strict=True)) for split in SPLITS}

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
                f"{(parts[0].lengths - parts[0].completion_tokens).mean():.1f}",
                f"{parts[0].completion_tokens.mean():.1f}",
                str(sum(part.num_cut_prompts for part in parts)),
                str(dropped),
            ]
            table.add_row(task, *cells)
        return table

    def _share(self, split: str, task: int) -> str:
        total, shown = len(self.tokens[split][task]), len(self.shown[split][task])
        return str(total) if shown == total else f"{shown}/{total}"


def load_corpus(
    tasks: Sequence[Task],
    tokenizer: Any,
    max_length: int,
    validation_rows: int | None = None,
    test_rows: int | None = None,
    overlong: Overlong = "error",
    overlap: Overlap = "drop",
    num_proc: int | None = None,
    only: Collection[str] | None = None,
) -> Corpus:
    """Read, split, check and tokenise the tasks; what an earlier run has read and tokenised is taken from its cache.

    Args:
        tasks: at least one, with different names.
        tokenizer: a Hugging Face tokenizer.
        max_length: tokens per row.
        validation_rows: size of the fixed validation subset per task; ``None`` = all.
        test_rows: the same for test.
        overlong: see `select_rows`.
        overlap: see `disjoint`.
        num_proc: see `token_tables`.
        only: names of the tasks that the corpus has; ``None`` = all. What a task keeps depends on the prompts that
            the others are tested on, so all are read.

    Raises:
        FileNotFoundError: A path leads nowhere.
        ValueError: A row, a split or a length is not usable; the message names file and line.
    """
    names = [task.name for task in tasks]
    texts = dict(zip(names, row_tables(tasks), strict=True))
    given = {
        name: carve(name, Splits(rows.splits(), rows.store.numbers("identity"), rows.origin))
        for name, rows in texts.items()
    }
    splits, num_overlapping = disjoint(given, overlap)
    stores = dict(zip(names, token_tables(list(texts.values()), tokenizer, max_length, num_proc), strict=True))
    tokens: dict[str, list[TokenizedRows]] = {split: [] for split in SPLITS}
    shown: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    limits = {"train": None, "validation": validation_rows, "test": test_rows}
    kept = [name for name in names if only is None or name in only]
    for name in kept:
        _report_last_only(name, stores[name])
        ranks = texts[name].store.numbers("subset_rank")
        for split, limit in limits.items():
            wanted, about = splits[name].rows[split], f"{name}/{split}"
            rows = select_rows(stores[name], wanted, max_length, overlong, about, texts[name].origin)
            tokens[split].append(rows)
            shown[split].append(fixed_subset(ranks[rows.rows], limit))
        _report_cut_prompts(name, [tokens[split][-1] for split in SPLITS], max_length)
    dropped = {name: num_overlapping[name] for name in kept}
    return Corpus(tuple(kept), tokens, shown, dropped, [texts[name] for name in kept])


def _report_cut_prompts(task: str, splits: Sequence[TokenizedRows], max_length: int) -> None:
    """Warn where so many rows lose the beginning of their prompt that it is no exception."""
    cut, total = sum(rows.num_cut_prompts for rows in splits), sum(map(len, splits))
    if cut >= max(1, LEAST_SHARE_CUT * total):
        longest = max(rows.longest for rows in splits)
        enough = -(-longest // 64) * 64
        rank_zero_warn(
            f"Task {task!r}: {cut} of {total} rows lose the beginning of their prompt, because they have more than "
            f"{max_length} tokens (data.max_length). data.max_length={enough} keeps all of them whole, if the model's "
            f"context and the memory allow it: the longest has {longest} tokens."
        )


def _report_last_only(task: str, store: ArrowStore) -> None:
    count = int(store.numbers("last_only").sum())
    if count:
        rank_zero_warn(
            f"Task {task!r}: of {count} conversations only the last answer is learned, because the chat template "
            "renders earlier answers differently once a conversation goes on."
        )
