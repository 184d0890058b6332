"""Inspect data before training on it: read as training reads it, and say all that is odd at once."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from lightning_coba.data.datamodule import MultitaskDataModule
from lightning_coba.data.planning.run_plan import plan_run
from lightning_coba.data.reading.arrow_store import ArrowStore
from lightning_coba.data.reading.formats import RecordError
from lightning_coba.data.reading.row_cache import RowTable, readable_rows, row_tables
from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.data.tokens.encoding import TEXT_COLUMNS, Encoder
from lightning_coba.data.tokens.splits import Splits, carve, disjoint, shared_prompts
from lightning_coba.data.tokens.token_cache import token_tables
from lightning_coba.data.tokens.tokenization import select_rows
from lightning_coba.inspection.example import Example, example_of
from lightning_coba.inspection.findings import Finding, by_gravity, together
from lightning_coba.inspection.inspected_task import InspectedTask
from lightning_coba.inspection.lengths import (
    SplitFacts,
    context_findings,
    length_findings,
    size_findings,
    split_facts,
)
from lightning_coba.inspection.overlaps import (
    common_train_findings,
    emptied_findings,
    known_answer_findings,
    shared_prompt_findings,
)
from lightning_coba.inspection.steps import RunLength, StepFacts, step_facts, step_findings
from lightning_coba.inspection.texts import LabelFacts, label_facts, label_findings, text_findings

_UNCUT = 2**30


@dataclass(frozen=True)
class Inspection:
    """All that was found out about some tasks.

    Attributes:
        findings: gravest first.
        splits: sizes, three a task; of tasks that cannot be read none.
        labels: of the tasks whose completions are labels.
        examples: a rendered row a task.
        steps: what the optimizer is fed; None where that cannot be planned.
    """

    findings: Sequence[Finding]
    splits: Sequence[SplitFacts] = ()
    labels: Sequence[LabelFacts] = ()
    examples: Sequence[Example] = ()
    steps: StepFacts | None = None

    @property
    def stops_training(self) -> bool:
        """Whether there is an error."""
        return any(finding.level == "error" for finding in self.findings)


def inspect_data(
    datamodule: MultitaskDataModule, length: RunLength | None = None, context: int | None = None
) -> Inspection:
    """Read all tasks of a datamodule as training will, and report what it would stop at, or do worse with.

    Use it before a run on new data. What is read and tokenised is kept for the run, as `MultitaskDataModule` does;
    rows that are unusable are reported all at once, and the rest is inspected without them.

    Args:
        datamodule: the tasks, and how they are mixed and cut; needs a tokenizer.
        length: of the run; ``None`` = as ``coba-train`` has it by default.
        context: tokens that the model reads at most, which training refuses longer rows for; ``None`` = not known.

    Raises:
        ValueError: The datamodule has no tokenizer, or it has no end token.

    Example:
        >>> from lightning_coba.data import MultitaskDataModule, Task
        >>> from lightning_coba.inspection import inspect_data
        >>> data = MultitaskDataModule([Task("doubles", "doubles.jsonl")], tokenizer=tokenizer)  # doctest: +SKIP
        >>> [finding.what for finding in inspect_data(data).findings]  # doctest: +SKIP
        ["validation has 2 rows, carved from train: its loss is noisy, and so is the slope that steers"]
    """
    if datamodule.tokenizer is None:
        raise ValueError(
            "`inspect_data.datamodule` must have a tokenizer; got None. "
            "Pass tokenizer=AutoTokenizer.from_pretrained(...) to MultitaskDataModule."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what reading warns of is found here again, and better told
        return _inspected(datamodule, length or RunLength(), context)


def _inspected(datamodule: MultitaskDataModule, length: RunLength, context: int | None) -> Inspection:
    read, findings = _read(datamodule.tasks)
    splits, split_problems = _with_splits(read)
    findings += split_problems
    if not splits:
        return Inspection(by_gravity(findings))
    read = {name: read[name] for name in splits}
    shared = shared_prompts(splits)
    emptied = emptied_findings(splits, shared)
    findings += shared_prompt_findings(shared, splits, datamodule.overlap) + emptied
    # Where nothing would be left, the rest is inspected as if the prompts differed.
    disjoined = splits if emptied else disjoint(splits)[0]
    try:
        stores = token_tables(list(read.values()), datamodule.tokenizer, datamodule.max_length, datamodule.num_proc)
    except RecordError as error:  # a conversation that the chat template does not take
        found = Finding("error", "", error.message, "Correct the row.", error.origin)
        return Inspection(by_gravity([*findings, found]))
    rules = {task.name: task for task in datamodule.tasks}
    tasks = [
        _inspected_task(rules[name], read[name], splits[name], disjoined[name], store, datamodule)
        for name, store in zip(splits, stores, strict=True)
    ]
    return _facts(datamodule, length, context, tasks, findings)


def _facts(
    datamodule: MultitaskDataModule,
    length: RunLength,
    context: int | None,
    tasks: list[InspectedTask],
    findings: list[Finding],
) -> Inspection:
    limits = {"train": None, "validation": datamodule.validation_rows, "test": datamodule.test_rows}
    usable = []
    sizes: list[SplitFacts] = []
    labels: list[LabelFacts] = []
    for task in tasks:
        sizes += split_facts(task, limits)
        findings += length_findings(task, datamodule.max_length, datamodule.overlong, context)
        findings += context_findings(task, datamodule.overlong, context)
        findings += text_findings(task)
        if not all(len(task.kept[split]) for split in SPLITS):
            continue  # no completion of a split fits, which was said
        usable.append(task)
        found = label_facts(task)
        if found is None:
            findings += known_answer_findings(task)
        else:
            labels.append(found)
            findings += label_findings(found)
    findings += [*size_findings(sizes), *common_train_findings(usable)]
    steps = _steps(datamodule, usable, length) if usable else None
    if steps is not None:
        findings += step_findings(steps)
    examples = [example_of(task, datamodule.tokenizer) for task in usable]
    return Inspection(by_gravity(together(findings)), sizes, labels, examples, steps)


def _read(tasks: Sequence[Task]) -> tuple[dict[str, RowTable], list[Finding]]:
    """Read the rows of each task; where that stops, read what can be read."""
    try:
        return dict(zip([task.name for task in tasks], row_tables(tasks), strict=True)), []
    except (ValueError, FileNotFoundError):
        pass
    read: dict[str, RowTable] = {}
    findings: list[Finding] = []
    for task in tasks:
        try:
            table, problems = readable_rows(task)
        except FileNotFoundError as error:
            findings.append(Finding("error", task.name, str(error), "Correct the path."))
            continue
        findings += _problem_findings(task.name, problems)
        if len(table.store):
            read[task.name] = table
    return read, findings


def _problem_findings(task: str, problems: Sequence[RecordError]) -> list[Finding]:
    """Return a finding for each kind of problem, with how often it occurs and where first."""
    counts = Counter(problem.message for problem in problems)
    first = {problem.message: problem.origin for problem in reversed(problems)}
    found = []
    for message, count in counts.items():
        what, stop, cure = message.partition(". ")
        many = f"{count} rows: " if count > 1 else ""
        found.append(Finding("error", task, f"{many}{what.rstrip('.')}", cure if stop else "", first[message]))
    return found


def _with_splits(read: dict[str, RowTable]) -> tuple[dict[str, Splits], list[Finding]]:
    splits: dict[str, Splits] = {}
    findings: list[Finding] = []
    for name, table in read.items():
        given = Splits(table.splits(), table.store.numbers("identity"), table.origin)
        if "train" not in given.rows:
            continue  # no row of it is usable, which was said
        try:
            splits[name] = carve(name, given)
        except ValueError as error:
            what, _, cure = str(error).partition(". ")
            findings.append(Finding("error", name, what, cure))
    return splits, findings


def _inspected_task(
    task: Task, table: RowTable, splits: Splits, disjoined: Splits, store: ArrowStore, datamodule: MultitaskDataModule
) -> InspectedTask:
    overlong = store.numbers("overlong")
    kept = {split: rows[~overlong[rows]] for split, rows in disjoined.rows.items()}
    prompt, completion = _whole_lengths(table, store, datamodule.tokenizer)
    own = frozenset(table.splits())
    return InspectedTask(task.name, task.prompt, table, splits, own, kept, store, prompt, completion)


def _whole_lengths(table: RowTable, store: ArrowStore, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of prompt and completion of each row as if no row were too long."""
    total, learned = (store.numbers(name).astype(np.int64) for name in ("num_tokens", "num_learned"))
    short = np.flatnonzero(store.numbers("cut") | store.numbers("overlong"))
    if len(short):
        texts = table.store.table.select(TEXT_COLUMNS).take(pa.array(short))
        whole = Encoder(tokenizer, _UNCUT, table.origins)(texts)
        total[short] = whole.column("num_tokens").to_numpy()
        learned[short] = whole.column("num_learned").to_numpy()
    return total - learned, learned


def _steps(datamodule: MultitaskDataModule, tasks: Sequence[InspectedTask], length: RunLength) -> StepFacts:
    tokens = [select_rows(task.tokens, task.kept["train"], datamodule.max_length) for task in tasks]
    names = ("sampling_weights", "max_rows", "repeats")
    given = {name: values for name in names if (values := getattr(datamodule.mixing, name)) is not None}
    readable: dict[str, Any] = {name: _of(tasks, datamodule.task_names, values) for name, values in given.items()}
    mixing = replace(datamodule.mixing, **readable)
    planner = plan_run(
        [task.lengths for task in tokens],
        mixing,
        datamodule.epoch,
        (1 if datamodule.batch_tokens else datamodule.batch_size) * length.accumulate_grad_batches,
        datamodule.batching,
        datamodule.max_length,
        datamodule.batch_tokens,
        datamodule.seed,
    )
    return step_facts([task.name for task in tasks], tokens, planner, length)


def _of(tasks: Sequence[InspectedTask], names: Sequence[str], values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values of those tasks that can be read."""
    return tuple(values[names.index(task.name)] for task in tasks)
