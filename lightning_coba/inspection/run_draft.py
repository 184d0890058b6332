"""A first run on some data: its settings, and the Hydra experiment that a person can read and edit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from lightning_coba.data.reading.root import Root
from lightning_coba.data.reading.row_cache import RowTable, row_tables
from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.errors import FileInTheWayError, UserError
from lightning_coba.inspection.column_guess import Columns
from lightning_coba.inspection.lengths import uncut_lengths

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


class Lengths(NamedTuple):
    """How long the rows of all tasks are in tokens, and what that leads to.

    Attributes:
        usual: What 99 % of the rows of each task have at most.
        longest: What the longest row has.
        context: What the model reads at most.
        max_length: What a row may have.
        measured: Rows that were looked at.
        is_sample: Whether there are others.
        dropped: Rows looked at whose completion does not fit.
    """

    usual: int
    longest: int
    context: int
    max_length: int
    measured: int
    is_sample: bool
    dropped: int


@dataclass(frozen=True)
class RunDraft:
    """What a first run on some data could be.

    Attributes:
        tasks: The tasks with their column rules.
        columns: Task -> its rules, and what they were told from.
        sizes: Task -> rows of its train split, after carving.
        lengths: How long the rows are.
        batch_size: Rows at a time.
        max_steps: Optimizer steps.
        interval: Optimizer steps between two validation passes.
    """

    tasks: Sequence[Task]
    columns: Mapping[str, Columns]
    sizes: Mapping[str, int]
    lengths: Lengths
    batch_size: int
    max_steps: int
    interval: int


def draft_run(
    tasks: Sequence[Task], columns: Mapping[str, Columns], tokenizer: Any, context: int | None = None
) -> RunDraft:
    """Read the tasks and choose settings for a first run.

    Args:
        tasks: The tasks as `tasks_at` finds them; their rules are replaced.
        columns: Task -> its rules; see `rules_of`.
        tokenizer: Tokenizer of the model that is to be trained.
        context: Tokens that the model reads at most; ``None`` = as the tokenizer says.

    Raises:
        ValueError: A row is not usable; the message names file and line.
        FileNotFoundError: A path leads nowhere.
    """
    ruled = [replace(task, **columns[task.name].rules) for task in tasks]
    tables = row_tables(ruled)
    sizes = {task.name: _train_rows(table) for task, table in zip(ruled, tables, strict=True)}
    lengths = _lengths(tables, tokenizer, context or tokenizer.model_max_length)
    batch_size = max(1, min(_ROWS_A_STEP, _TOKENS_A_BATCH // lengths.max_length))
    an_epoch = -(-sum(sizes.values()) // _ROWS_A_STEP)
    fewest = min(_FEWEST_STEPS, _MOST_EPOCHS * an_epoch)
    steps = int(np.clip(_EPOCHS * an_epoch, fewest, _MOST_STEPS))
    return RunDraft(ruled, columns, sizes, lengths, batch_size, steps, max(1, steps // _RECORDS))


def _train_rows(table: RowTable) -> int:
    own = table.splits()
    return round(len(own["train"]) * (1 - _CARVED * (len(SPLITS) - len(own))))


def _lengths(tables: Sequence[RowTable], tokenizer: Any, context: int) -> Lengths:
    lengths, answers = [], []
    for table in tables:
        total = len(table.store)
        sample = np.linspace(0, total - 1, min(total, _ROWS_MEASURED)).astype(np.int64)
        whole, learned = uncut_lengths(table, sample, tokenizer)
        lengths.append(whole)
        answers.append(learned)
    # Task by task: the rows of a small one may all be longer than nearly all of the others.
    usual = max(int(np.quantile(task, 0.99, method="lower")) for task in lengths)
    longest = max(int(task.max()) for task in lengths)
    # A few more tokens are cheap where only the longest rows need them: a step is as wide as its own longest row.
    needed = longest if longest <= 2 * usual else usual
    max_length = min(-(-needed // 64) * 64, context)
    dropped = sum(int((learned + 1 > max_length).sum()) for learned in answers)
    is_sample = any(len(table.store) > _ROWS_MEASURED for table in tables)
    return Lengths(usual, longest, context, max_length, sum(map(len, answers)), is_sample, dropped)


def draft_yaml(draft: RunDraft, root: Root, name: str, config_dir: str, model: str | None) -> str:
    """Return the file's text.

    Args:
        draft: The settings; see `draft_run`.
        root: Where the data lies.
        name: Name of the experiment.
        config_dir: What ``--config-dir`` of coba-train must be.
        model: Hub id, folder or file of the model; ``None`` = the default one.
    """
    files = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=files, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["scalar"] = partial(json.dumps, ensure_ascii=False, default=str)  # JSON is YAML on one line
    columns = [draft.columns[task.name] for task in draft.tasks]
    sources = ("name", *SPLITS, "where")
    named = [{name: value for name in sources if (value := getattr(task, name))} for task in draft.tasks]
    return environment.get_template("experiment.yaml.jinja").render(
        draft=draft,
        root=root,
        name=name,
        config_dir=config_dir,
        model=model,
        columns=columns,
        is_alike=all(other.rules == columns[0].rules for other in columns),
        uneven=_UNEVEN,
        rows_a_step=_ROWS_A_STEP,
        tasks=[where | dict(own.rules) for where, own in zip(named, columns, strict=True)],
    )


def write_draft(path: str | PathLike[str], text: str, force: bool = False) -> None:
    """Write the file.

    Args:
        path: Where to; in a folder ``experiment``, where Hydra looks for the group of this name.
        text: What `draft_yaml` returned.
        force: Whether a file of that name is replaced.

    Raises:
        ValueError: The folder has another name.
        FileExistsError: There is such a file.
    """
    place = Path(path)
    if place.resolve().parent.name != "experiment" or place.suffix != ".yaml":
        raise UserError(
            "`write_draft.path` must be a .yaml file in a folder named 'experiment', where coba-train --config-dir "
            f"looks for it; got {str(path)!r}.",
            f"Write {str(place.parent / 'experiment' / (place.stem + '.yaml'))!r}.",
        )
    if place.exists() and not force:
        raise FileInTheWayError(
            f"{place} exists, and may have been edited.", "Add --force to replace it, or give --out."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
