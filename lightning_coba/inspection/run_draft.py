"""Choose the settings of a first run on some data: lengths, sizes of steps, and how often it is validated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from lightning_coba.data.reading.row_cache import RowTable, row_tables
from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.data.tokens.encoding import TEXT_COLUMNS, Encoder
from lightning_coba.inspection.column_guess import Columns

_UNCUT = 2**30
#: Tasks with more rows than this are measured on so many, evenly spread.
_ROWS_MEASURED = 5000
_ROWS_A_STEP = 16
_TOKENS_A_BATCH = 16_384
_EPOCHS = 3
_FEWEST_STEPS, _MOST_STEPS = 200, 3000
_MOST_EPOCHS = 10  # for the fewest steps: a small set is not to be learned by heart
_RECORDS = 40
_CARVED = 0.1
#: A task this many times larger than another would crowd it out of most steps.
_UNEVEN = 10


@dataclass(frozen=True)
class Setting:
    """A value, and why it was chosen."""

    value: Any
    why: str


@dataclass(frozen=True)
class RunDraft:
    """What a first run on some data could be.

    Attributes:
        tasks: with their column rules.
        columns: task -> its rules, and what they were told from.
        sizes: task -> rows of its train split, after carving.
        data: arguments of `MultitaskDataModule`.
        trainer: arguments of the Trainer.
    """

    tasks: Sequence[Task]
    columns: Mapping[str, Columns]
    sizes: Mapping[str, int]
    data: Mapping[str, Setting]
    trainer: Mapping[str, Setting]

    @property
    def common_rules(self) -> Mapping[str, Any] | None:
        """The column rules of all tasks; None where they differ."""
        first, *others = self.columns.values()
        return first.rules if all(other.rules == first.rules for other in others) else None


def draft_run(
    tasks: Sequence[Task], columns: Mapping[str, Columns], tokenizer: Any, context: int | None = None
) -> RunDraft:
    """Read the tasks and choose settings for a first run.

    Args:
        tasks: as `tasks_at` finds them; their rules are replaced.
        columns: task -> its rules; see `rules_of`.
        tokenizer: of the model that is to be trained.
        context: tokens that the model reads at most; ``None`` = as the tokenizer says.

    Raises:
        ValueError: A row is not usable; the message names file and line.
        FileNotFoundError: A path leads nowhere.
    """
    ruled = [replace(task, **columns[task.name].rules) for task in tasks]
    tables = row_tables(ruled)
    sizes = {task.name: _train_rows(table) for task, table in zip(ruled, tables, strict=True)}
    lengths, answers = _lengths(tables, tokenizer)
    sampled = any(len(table.store) > _ROWS_MEASURED for table in tables)
    data = _length_settings(lengths, answers, sampled, min(context or tokenizer.model_max_length, _UNCUT))
    max_length = int(data["max_length"].value)
    batch_size = max(1, min(_ROWS_A_STEP, _TOKENS_A_BATCH // max_length))
    data["batch_size"] = Setting(batch_size, f"rows at a time; {_ROWS_A_STEP} share an optimizer step")
    data["mixing"] = _mixing(sizes)
    return RunDraft(ruled, columns, sizes, data, _trainer_settings(sizes, _ROWS_A_STEP // batch_size))


def _train_rows(table: RowTable) -> int:
    own = table.splits()
    missing = len(SPLITS) - len(own)
    return round(len(own["train"]) * (1 - _CARVED * missing))


def _lengths(tables: Sequence[RowTable], tokenizer: Any) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the tokens of the rows of each task, and of the completions of all."""
    lengths, answers = [], []
    for table in tables:
        total = len(table.store)
        sample = np.linspace(0, total - 1, min(total, _ROWS_MEASURED)).astype(np.int64)
        texts = table.store.table.select(TEXT_COLUMNS).take(pa.array(sample))
        encoded = Encoder(tokenizer, _UNCUT, table.origins)(texts)
        lengths.append(encoded.column("num_tokens").to_numpy())
        answers.append(encoded.column("num_learned").to_numpy())
    return lengths, np.concatenate(answers)


def _length_settings(
    lengths: Sequence[np.ndarray], answers: np.ndarray, sampled: bool, context: int
) -> dict[str, Setting]:
    # Task by task: the rows of a small one may all be longer than nearly all of the others.
    most = max(int(np.quantile(task, 0.99, method="lower")) for task in lengths)
    longest = max(int(task.max()) for task in lengths)
    # A few more tokens are cheap where only the longest rows need them: a step is as wide as its own longest row.
    needed = longest if longest <= 2 * most else most
    max_length = -(-needed // 64) * 64
    told = f"99 % of the rows of each task have at most {most} tokens, the longest {longest}"
    why = f"{told}; longer prompts lose their beginning"
    if max_length > context:
        max_length, why = context, f"the model's context; {told}"
    settings = {"max_length": Setting(max_length, why)}
    dropped = int((answers + 1 > max_length).sum())
    if sampled or dropped:
        what = f"drops {dropped:,} of the {len(answers):,} rows{' measured' if sampled else ''}"
        settings["overlong"] = Setting("drop", f"{what}, whose completion does not fit; error = stop at the first")
    return settings


def _mixing(sizes: Mapping[str, int]) -> Setting:
    largest, smallest = max(sizes, key=lambda task: sizes[task]), min(sizes, key=lambda task: sizes[task])
    times = sizes[largest] / max(1, sizes[smallest])
    if times < _UNEVEN:
        return Setting("proportional", "every row once an epoch")
    return Setting("temperature", f"{largest} has {times:.0f} times the rows of {smallest}, which so comes more often")


def _trainer_settings(sizes: Mapping[str, int], accumulate: int) -> dict[str, Setting]:
    rows = sum(sizes.values())
    an_epoch = -(-rows // _ROWS_A_STEP)
    fewest = min(_FEWEST_STEPS, _MOST_EPOCHS * an_epoch)
    steps = int(np.clip(_EPOCHS * an_epoch, fewest, _MOST_STEPS))
    interval = max(1, steps // _RECORDS)
    passes = f"{steps * _ROWS_A_STEP / rows:.1f} passes over {rows:,} training rows"
    settings = {
        "max_steps": Setting(steps, f"optimizer steps: {passes}"),
        "val_check_interval": Setting(
            interval * accumulate,
            f"batches: {steps // interval} validation passes in all; CoBa's weights move from the 3rd on and look back "
            "on 10",
        ),
        "check_val_every_n_epoch": Setting(None, "count val_check_interval across epochs"),
    }
    if accumulate > 1:
        settings["accumulate_grad_batches"] = Setting(accumulate, f"batches that share a step of {_ROWS_A_STEP} rows")
    return settings
