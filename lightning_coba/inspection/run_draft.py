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

from lightning_coba.data.planning.mixing import Mixing
from lightning_coba.data.planning.planner import Planner
from lightning_coba.data.reading.root import Root
from lightning_coba.data.reading.row_cache import RowTable, row_tables
from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.errors import FileInTheWayError, UserError
from lightning_coba.inspection.column_guess import Columns
from lightning_coba.inspection.lengths import uncut_lengths
from lightning_coba.inspection.steps import RARE_BELOW

#: Tasks with more rows than this are measured on so many, evenly spread.
_ROWS_MEASURED = 5000
_ROWS_A_STEP = 16
_TOKENS_A_BATCH = 16_384
_EPOCHS = 3
_FEWEST_STEPS, _MOST_STEPS = 200, 3000
_MOST_EPOCHS = 10  # for the fewest steps: a small set is not to be learned by heart
_CARVED = 0.1
#: Validation passes and rows of a task in each, best first: passes at most, at least so many, and rows.
_VALIDATIONS = ((40, 26, 64), (40, 13, 32), (40, 13, 16))
#: Rows that are validated for one that is trained on: about a quarter of the time, since to learn a row takes two to
#: three times as long as to read it.
_VALIDATED = 2 / 3
_SHARE_ALLOWED = 0.25  # of validation in the time
#: How often a run may show a row of the smallest task before every step is made to hold all tasks.
_MOST_REPEATS = 30
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
        mixing: How the tasks share an epoch.
        batch_size: Rows at a time.
        max_steps: Optimizer steps.
        validation_rows: Rows of a task in a validation pass, at most.
        interval: Optimizer steps between two validation passes.
    """

    tasks: Sequence[Task]
    columns: Mapping[str, Columns]
    sizes: Mapping[str, int]
    lengths: Lengths
    mixing: str
    batch_size: int
    max_steps: int
    validation_rows: int
    interval: int

    @property
    def passes(self) -> int:
        """Validation passes of the run."""
        return self.max_steps // self.interval

    def with_smaller_batches(self) -> "RunDraft":
        """Return the same with half as many rows at a time, in steps of the same size."""
        return replace(self, batch_size=self.batch_size // 2)

    def with_share(self, share: float) -> "RunDraft":
        """Return the same with fewer validation passes, where they were measured to take too much of the time."""
        passes = self.passes * _SHARE_ALLOWED / (1 - _SHARE_ALLOWED) * (1 - share) / max(share, 1e-9)
        return self if share <= _SHARE_ALLOWED else replace(self, interval=_interval(self.max_steps, int(passes)))


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
    sizes = {task.name: _rows(table, "train") for task, table in zip(ruled, tables, strict=True)}
    measured = [_measured_lengths(table, tokenizer) for table in tables]
    lengths = _lengths(tables, measured, context or tokenizer.model_max_length)
    batch_size = max(1, min(_ROWS_A_STEP, _TOKENS_A_BATCH // lengths.max_length))
    an_epoch = -(-sum(sizes.values()) // _ROWS_A_STEP)
    fewest = min(_FEWEST_STEPS, _MOST_EPOCHS * an_epoch)
    steps = int(np.clip(_EPOCHS * an_epoch, fewest, _MOST_STEPS))
    mixing = _mixing([*sizes.values()], [whole.clip(max=lengths.max_length) for whole, _ in measured], steps)
    validation_rows, interval = _validation([_rows(table, "validation") for table in tables], steps)
    return RunDraft(ruled, columns, sizes, lengths, mixing, batch_size, steps, validation_rows, interval)


def _rows(table: RowTable, split: str) -> int:
    """Return the rows of a split, which may still be carved from train."""
    own = table.splits()
    if split != "train":
        return len(own[split]) if split in own else round(len(own["train"]) * _CARVED)
    return round(len(own["train"]) * (1 - _CARVED * (len(SPLITS) - len(own))))


def _mixing(sizes: Sequence[int], lengths: Sequence[np.ndarray], steps: int) -> str:
    """Return the rule of mixing that leaves no task in few steps, as far as it does not show the same rows for ever."""
    rule = "proportional" if max(sizes) < _UNEVEN * max(1, min(sizes)) else "temperature"
    tasks = len(sizes)
    if not 1 < tasks <= _ROWS_A_STEP or min(sizes) < 1:
        return rule
    resized = [np.resize(of_task, size) for of_task, size in zip(lengths, sizes, strict=True)]
    plan = Planner(resized, Mixing(rule), "all", _ROWS_A_STEP).plan(0)
    num_steps = len(plan.steps) - 1
    step_of = np.repeat(np.arange(num_steps), np.diff(plan.steps))
    held = np.unique(step_of * tasks + plan.rows[:, 0]) % tasks
    presence = np.bincount(held, minlength=tasks) / num_steps
    repeats = steps * _ROWS_A_STEP / tasks / min(sizes)
    return "stratified" if presence.min() < RARE_BELOW and repeats <= _MOST_REPEATS else rule


def _validation(sizes: Sequence[int], steps: int) -> tuple[int, int]:
    """Return the rows of a task in a validation pass, and the steps between two passes.

    Where the passes that a balancer needs take more of the time than they should, they are made all the same.
    """
    allowed = _VALIDATED * steps * _ROWS_A_STEP
    for most, fewest, rows in _VALIDATIONS:
        passes = min(most, int(allowed / max(1, sum(min(size, rows) for size in sizes))))
        if passes >= fewest:
            break
    return rows, _interval(steps, passes)


def _interval(steps: int, passes: int) -> int:
    """Return the steps between so many passes, or as many as CoBa's warm-up and window have."""
    fewest = _VALIDATIONS[-1][1]
    interval = -(-steps // max(passes, fewest))
    return interval if steps // interval >= fewest else max(1, steps // fewest)


def _measured_lengths(table: RowTable, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of a task's rows, evenly spread ones of many, and how many of each are learned."""
    total = len(table.store)
    return uncut_lengths(table, np.linspace(0, total - 1, min(total, _ROWS_MEASURED)).astype(np.int64), tokenizer)


def _lengths(tables: Sequence[RowTable], measured: Sequence[tuple[np.ndarray, np.ndarray]], context: int) -> Lengths:
    lengths, answers = zip(*measured, strict=True)
    # Task by task: the rows of a small one may all be longer than nearly all of the others.
    usual = max(int(np.quantile(task, 0.99, method="lower")) for task in lengths)
    longest = max(int(task.max()) for task in lengths)
    # A few more tokens are cheap where only the longest rows need them: a step is as wide as its own longest row.
    needed = longest if longest <= 2 * usual else usual
    max_length = min(-(-needed // 64) * 64, context)
    dropped = sum(int((learned + 1 > max_length).sum()) for learned in answers)
    is_sample = any(len(table.store) > _ROWS_MEASURED for table in tables)
    return Lengths(usual, longest, context, max_length, sum(map(len, answers)), is_sample, dropped)


def draft_yaml(
    draft: RunDraft, root: Root, name: str, config_dir: str, model: str | None, precision: str = "32-true"
) -> str:
    """Return the file's text.

    Args:
        draft: The settings; see `draft_run`.
        root: Where the data lies.
        name: Name of the experiment.
        config_dir: What ``--config-dir`` of coba-train must be.
        model: Hub id, folder or file of the model; ``None`` = the default one.
        precision: What the machine computes in, as Lightning names it.
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
        precision=precision,
        columns=columns,
        is_alike=all(other.rules == columns[0].rules for other in columns),
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
