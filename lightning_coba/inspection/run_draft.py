"""A first run on some data: its settings, and the Hydra experiment that a person can read and edit."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

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
    why: str = ""


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
    sizes = ", ".join(f"{task} {rows:,}" for task, rows in draft.sizes.items())
    lines = [
        "# @package _global_",
        f"# coba-train --config-dir {config_dir} experiment={name}",
        *_comment(f"Drafted by coba-data init from {root}. Edit it; what is not named here is as coba-train has it."),
        *_comment(f"Training rows: {sizes}."),
        "defaults:",
        "  - override /data: files",
        f"  - override /model: {'smollm2' if model is None else 'causal_lm'}",
        "",
        f"suite: {_scalar(name)} # what the tasks are called together, in the names of runs",
        "",
    ]
    if model is not None:
        lines += ["model:", f"  model: {_scalar(model)}", ""]
    lines += ["data:", *_lines(_source(draft, root)), *_lines(draft.data), ""]
    return "\n".join([*lines, "trainer:", *_lines(draft.trainer)]) + "\n"


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


def _source(draft: RunDraft, root: str) -> dict[str, Setting]:
    """Return what is read: all of the folder by one rule, or where the columns differ each task by its own."""
    first, *others = draft.columns.values()
    if all(other.rules == first.rules for other in others):
        return {"root": Setting(root, "seen from where coba-train is started"), **_rules(first)}
    tasks = [_task(task) | _rules(draft.columns[task.name]) for task in draft.tasks]
    why = "their columns differ, so each is named; paths are seen from where it is started"
    return {"root": Setting(None), "tasks": Setting(tasks, why)}


def _task(task: Task) -> dict[str, Setting]:
    settings: dict[str, Any] = {"_target_": "lightning_coba.Task", "name": task.name}
    for split in SPLITS:
        if (source := getattr(task, split)) is not None:
            settings[split] = [str(path) for path in source] if isinstance(source, list) else str(source)
    if task.where:
        settings["where"] = dict(task.where)
    return {name: Setting(value) for name, value in settings.items()}


def _rules(columns: Columns) -> dict[str, Setting]:
    """Say why once, at the first of the rules."""
    return {name: Setting(rule, columns.why * (not k)) for k, (name, rule) in enumerate(columns.rules.items())}


def _lines(settings: Mapping[str, Setting], indent: str = "  ") -> list[str]:
    lines = []
    for name, (value, why) in settings.items():
        items = value if name == "tasks" else []
        lines.append(f"{indent}{name}:{'' if items else ' ' + _scalar(value)}{why and f' # {why}'}")
        for item in items:
            first, *others = _lines(item, f"{indent}    ")
            lines += [f"{indent}  - {first.strip()}", *others]
    return lines


def _comment(text: str) -> list[str]:
    marks = {"initial_indent": "# ", "subsequent_indent": "# "}
    return textwrap.wrap(text, 118, **marks, break_long_words=False, break_on_hyphens=False)  # type: ignore[arg-type]


def _scalar(value: Any) -> str:
    r"""Return a value as YAML on one line.

    Example:
        >>> _scalar("answer"), _scalar("{question}\n"), _scalar(None)
        ('answer', '"{question}\\n"', 'null')
    """
    plain = isinstance(value, str) and re.fullmatch(r"[^\W\d_][\w.-]*", value)
    reserved = str(value).lower() in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    return value if plain and not reserved else json.dumps(value, ensure_ascii=False)
