"""All rows of all tasks, read, split and tokenised once: what every loader draws from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from rich.table import Table

from lightning_coba.data.reading.arrow_store import ArrowStore
from lightning_coba.data.reading.row_cache import RowTable, is_kept, row_tables
from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.data.tokens.splits import Overlap, Splits, carve, disjoint, fixed_subset
from lightning_coba.data.tokens.token_cache import token_tables
from lightning_coba.data.tokens.tokenization import Overlong, TokenizedRows, select_rows


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

    Raises:
        FileNotFoundError: A path leads nowhere.
        ValueError: A row, a split or a length is not usable; the message names file and line.
    """
    texts = row_tables(tasks)
    names = [task.name for task in tasks]
    given = {
        name: carve(name, Splits(rows.splits(), rows.store.numbers("identity"), rows.origin))
        for name, rows in zip(names, texts, strict=True)
    }
    splits, num_overlapping = disjoint(given, overlap)
    stores = token_tables(texts, tokenizer, max_length, num_proc)
    tokens: dict[str, list[TokenizedRows]] = {split: [] for split in SPLITS}
    shown: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    limits = {"train": None, "validation": validation_rows, "test": test_rows}
    for name, rows, store in zip(names, texts, stores, strict=True):
        _report_last_only(name, store)
        ranks = rows.store.numbers("subset_rank")
        for split in SPLITS:
            wanted = splits[name].rows[split]
            kept = select_rows(store, wanted, max_length, overlong, f"{name}/{split}", rows.origin)
            tokens[split].append(kept)
            shown[split].append(fixed_subset(ranks[kept.rows], limits[split]))
    return Corpus(tuple(names), tokens, shown, num_overlapping, texts)


def prepare_corpus(tasks: Sequence[Task], tokenizer: Any, max_length: int, num_proc: int | None = None) -> None:
    """Fill the cache that `load_corpus` reads from; call it in one process, before the others start.

    Only files and data sets are kept; Python rows are left to `load_corpus`.

    Args:
        tasks: as for `load_corpus`.
        tokenizer: as for `load_corpus`.
        max_length: as for `load_corpus`.
        num_proc: as for `load_corpus`.

    Raises:
        FileNotFoundError: A path leads nowhere.
        ValueError: A row is not usable; the message names file and line.
    """
    token_tables(row_tables([task for task in tasks if is_kept(task)]), tokenizer, max_length, num_proc)


def _report_last_only(task: str, store: ArrowStore) -> None:
    count = int(store.numbers("last_only").sum())
    if count:
        rank_zero_warn(
            f"Task {task!r}: of {count} conversations only the last answer is learned, because the chat template "
            "renders earlier answers differently once a conversation goes on."
        )


def by_length(pairs: np.ndarray, tokens: Sequence[TokenizedRows]) -> np.ndarray:
    """Sort (task, row) pairs by their number of tokens, int64 ``[rows, 2]``: the least padding.

    The longest come first, so that a batch that does not fit into memory fails at once.
    """
    pairs = np.asarray(pairs)
    lengths = np.zeros(len(pairs), dtype=np.int64)
    for task, rows in enumerate(tokens):
        mine = pairs[:, 0] == task
        lengths[mine] = rows.lengths[pairs[mine, 1]]
    return pairs[np.argsort(-lengths, kind="stable")]
