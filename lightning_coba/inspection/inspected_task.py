"""The rows of a task as an inspection sees them: texts, lengths that nothing has cut, and which split has which."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightning_coba.data.reading.arrow_store import ArrowStore
from lightning_coba.data.reading.row_cache import RowTable
from lightning_coba.data.reading.task import SPLITS
from lightning_coba.data.tokens.splits import Splits

_MOST_LABELS = 200
_LONGEST_LABEL = 60
_ROWS_PER_LABEL = 5


@dataclass(frozen=True, eq=False)
class InspectedTask:
    """One task as it was read.

    Attributes:
        name: Name of the task.
        prompt_rule: The column that holds the prompt, or its template.
        table: Its rows as text.
        splits: Its rows by split, before rows are dropped.
        kept: Split -> rows that training keeps, int64; without those whose prompt or length it refuses.
        shown: Split -> how many of these are evaluated, or trained on.
        tokens: Its rows as tokens, cut where they are too long.
        prompt_tokens: Tokens of each row's prompt before anything is cut, int64 ``[rows]``.
        completion_tokens: The same of what is learned, the end token counted.
    """

    name: str
    prompt_rule: str
    table: RowTable
    splits: Splits
    kept: dict[str, np.ndarray]
    shown: dict[str, int]
    tokens: ArrowStore
    prompt_tokens: np.ndarray
    completion_tokens: np.ndarray

    def origin(self, row: int) -> str:
        """Return where a row came from."""
        return self.table.origin(int(row))

    def texts(self, column: str, rows: np.ndarray) -> pa.Array:
        """Return the ``"prompt"`` or ``"completion"`` of some rows; of conversations the last answers."""
        return self.table.store.table.column(column).take(pa.array(rows)).combine_chunks()

    @cached_property
    def completion_codes(self) -> np.ndarray:
        """A number for each row, equal for equal completions, int64 ``[rows]``."""
        completions = self.table.store.table.column("completion").combine_chunks()
        return completions.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)

    @cached_property
    def is_chat(self) -> np.ndarray:
        """Whether the chat template renders a row, bool ``[rows]``."""
        return self.table.store.table.column("messages").is_valid().to_numpy()

    @cached_property
    def labels(self) -> dict[str, int]:
        """Label -> training rows, most frequent first; empty where completions are texts, many or long."""
        train = self.texts("completion", self.kept["train"])
        found = pc.value_counts(train)
        values, counts = found.field("values"), found.field("counts")
        few = 0 < len(values) <= min(_MOST_LABELS, len(train) / _ROWS_PER_LABEL)
        if not few or pc.max(pc.utf8_length(values)).as_py() > _LONGEST_LABEL:
            return {}
        pairs = zip(values.to_pylist(), counts.to_pylist(), strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    @cached_property
    def unseen_labels(self) -> list[str]:
        """Labels of the test split that train lacks."""
        tested = pc.unique(self.texts("completion", self.kept["test"])).to_pylist()
        return [label for label in tested if label not in self.labels]

    @cached_property
    def carved(self) -> frozenset[str]:
        """The splits that were not given but carved from train."""
        return frozenset(SPLITS) - self.table.splits().keys()

    def counts(self, split: str) -> dict[str, int]:
        """Return how many rows of a split are cut, too long, or dropped because their prompt is held out elsewhere."""
        before, kept = self.splits.rows[split], self.kept[split]
        cut = int(np.count_nonzero(self.tokens.numbers("num_lost")[kept]))
        too_long = int(self.tokens.numbers("overlong")[before].sum())
        return {"cut": cut, "too long": too_long, "dropped": len(before) - len(kept) - too_long}

    def lengths(self, split: str) -> np.ndarray:
        """Return the tokens of the rows of a split that are kept, before anything is cut, int64 ``[rows]``."""
        return (self.prompt_tokens + self.completion_tokens)[self.kept[split]]

    @cached_property
    def rows(self) -> np.ndarray:
        """All rows that are in some split, in their order."""
        return np.sort(np.concatenate([self.splits.rows[split] for split in SPLITS]))
