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

from lightning_coba.data.reading.row_cache import RowTable, row_tables
from lightning_coba.data.reading.task import SPLITS, Task
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


class Setting(NamedTuple):
    """A value, and why it was chosen."""

    value: Any
    why: str


@dataclass(frozen=True)
class RunDraft:
    """What a first run on some data could be.

    Attributes:
        tasks: The tasks with their column rules.
        columns: Task -> its rules, and what they were told from.
        sizes: Task -> rows of its train split, after carving.
        data: Arguments of `MultitaskDataModule`.
        trainer: Arguments of the Trainer.
    """

    tasks: Sequence[Task]
    columns: Mapping[str, Columns]
    sizes: Mapping[str, int]
    data: Mapping[str, Setting]
    trainer: Mapping[str, Setting]


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
    data = _length_settings(tables, tokenizer, context or tokenizer.model_max_length)
    batch_size = max(1, min(_ROWS_A_STEP, _TOKENS_A_BATCH // data["max_length"].value))
    data["batch_size"] = Setting(batch_size, f"rows at a time; {_ROWS_A_STEP} share an optimizer step")
    data["mixing"] = _mixing(sizes)
    return RunDraft(ruled, columns, sizes, data, _trainer_settings(sizes, _ROWS_A_STEP // batch_size))


def _train_rows(table: RowTable) -> int:
    own = table.splits()
    return round(len(own["train"]) * (1 - _CARVED * (len(SPLITS) - len(own))))


def _length_settings(tables: Sequence[RowTable], tokenizer: Any, context: int) -> dict[str, Setting]:
    lengths, answers = [], []
    for table in tables:
        total = len(table.store)
        sample = np.linspace(0, total - 1, min(total, _ROWS_MEASURED)).astype(np.int64)
        whole, learned = uncut_lengths(table, sample, tokenizer)
        lengths.append(whole)
        answers.append(learned)
    # Task by task: the rows of a small one may all be longer than nearly all of the others.
    most = max(int(np.quantile(task, 0.99, method="lower")) for task in lengths)
    longest = max(int(task.max()) for task in lengths)
    # A few more tokens are cheap where only the longest rows need them: a step is as wide as its own longest row.
    needed = longest if longest <= 2 * most else most
    max_length = -(-needed // 64) * 64
    why = f"99 % of the rows of each task have at most {most} tokens, the longest {longest}"
    if max_length > context:
        max_length, why = context, f"the model's context; {why}"
    else:
        why += "; longer prompts lose their beginning"
    settings = {"max_length": Setting(max_length, why)}
    dropped = sum(int((learned + 1 > max_length).sum()) for learned in answers)
    sampled = any(len(table.store) > _ROWS_MEASURED for table in tables)
    if sampled or dropped:
        what = f"drops {dropped:,} of the {sum(map(len, answers)):,} rows{' measured' if sampled else ''}"
        settings["overlong"] = Setting("drop", f"{what}, whose completion does not fit; error = stop at the first")
    return settings


def _mixing(sizes: Mapping[str, int]) -> Setting:
    largest, smallest = (extreme(sizes, key=lambda task: sizes[task]) for extreme in (max, min))
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
    records = f"{steps // interval} validation passes in all; CoBa's weights move from the 3rd on and look back on 10"
    settings = {
        "max_steps": Setting(steps, f"optimizer steps: {passes}"),
        "val_check_interval": Setting(interval * accumulate, f"batches: {records}"),
        "check_val_every_n_epoch": Setting(None, "count val_check_interval across epochs"),
    }
    if accumulate > 1:
        settings["accumulate_grad_batches"] = Setting(accumulate, f"batches that share a step of {_ROWS_A_STEP} rows")
    return settings


def draft_yaml(draft: RunDraft, root: str, name: str, config_dir: str, model: str | None) -> str:
    """Return the file's text.

    Args:
        draft: The settings; see `draft_run`.
        root: Where the data lies, as it was typed.
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
    return environment.get_template("experiment.yaml.jinja").render(
        draft=draft,
        root=root,
        name=name,
        config_dir=config_dir,
        model=model,
        columns=columns,
        is_alike=all(other.rules == columns[0].rules for other in columns),
        tasks=[_named(task) | dict(own.rules) for task, own in zip(draft.tasks, columns, strict=True)],
    )


def _named(task: Task) -> dict[str, Any]:
    """Return a task's name, and where its rows are."""
    given = {name: getattr(task, name) for name in ("name", *SPLITS, "where")}
    return {name: value for name, value in given.items() if value}


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
        raise ValueError(
            f"`write_draft.path` must be a .yaml file in a folder named 'experiment', where coba-train --config-dir "
            f"looks for it; got {str(path)!r}. Write {str(place.parent / 'experiment' / (place.stem + '.yaml'))!r}."
        )
    if place.exists() and not force:
        raise FileExistsError(f"{place} exists, and may have been edited. Add --force to replace it, or give --out.")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
