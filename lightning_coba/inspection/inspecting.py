"""Inspect data before training on it: read as training reads it, and say all that is odd at once."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lightning_coba.data.datamodule import MultitaskDataModule
from lightning_coba.data.planning.planner import Planner
from lightning_coba.data.reading.found_tasks import FoundTasks
from lightning_coba.data.reading.row_cache import RowTable, readable_rows, row_tables
from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.data.tokens.splits import Splits, carve, disjoint, shared_prompts
from lightning_coba.data.tokens.token_cache import token_tables
from lightning_coba.data.tokens.tokenization import select_rows
from lightning_coba.errors import MissingFileError, UserError
from lightning_coba.inspection.example import Example, example_of
from lightning_coba.inspection.findings import Finding, fault_findings, finding, listed, most_severe_first
from lightning_coba.inspection.forecast import Forecast, Measured
from lightning_coba.inspection.inspected_task import InspectedTask
from lightning_coba.inspection.lengths import length_faults, size_findings, uncut_lengths
from lightning_coba.inspection.overlaps import (
    common_train_findings,
    emptied_findings,
    known_answer_findings,
    shared_prompt_findings,
)
from lightning_coba.inspection.steps import RunLength, StepFacts, share_findings, step_facts, step_findings
from lightning_coba.inspection.texts import contradiction_findings, label_findings, text_faults


@dataclass(frozen=True)
class Inspection:
    """All that was found out about some tasks.

    Attributes:
        findings: What to know, most severe first.
        tasks: The tasks that can be read and split.
        examples: One rendered row per task.
        steps: What the optimizer is fed; None where that cannot be planned.
        forecast: What the run will take; None where it was not timed.
    """

    findings: Sequence[Finding]
    tasks: Sequence[InspectedTask] = ()
    examples: Sequence[Example] = ()
    steps: StepFacts | None = None
    forecast: Forecast | None = None

    @property
    def stops_training(self) -> bool:
        """Whether there is an error."""
        return any(finding.level == "error" for finding in self.findings)

    def timed(self, measured: Measured, baseline_passes: int = 1, tests: int = 2) -> "Inspection":
        """Return the same with what the run will take; validation is then judged by its time.

        Args:
            measured: What a rehearsal took.
            baseline_passes: Validation passes before training.
            tests: Tests before and after training.
        """
        if self.steps is None:
            return self
        length, an_epoch = self.steps.length, self.steps.steps_an_epoch
        forecast = Forecast(measured, length.steps(an_epoch), length.records(an_epoch), baseline_passes, tests)
        counted = share_findings(self.steps)
        others = [found for found in self.findings if found not in counted]
        findings = [*others, *share_findings(self.steps, forecast.validation_share)]
        return replace(self, findings=most_severe_first(findings), forecast=forecast)


def inspect_data(
    datamodule: MultitaskDataModule, length: RunLength | None = None, context: int | None = None
) -> Inspection:
    """Read all tasks of a datamodule as training will, and report what it would stop at, or do worse with.

    Use it before a run on new data. What is read and tokenised is kept for the run, as `MultitaskDataModule` does;
    rows that are unusable are reported all at once, and the rest is inspected without them.

    Args:
        datamodule: The tasks, and how they are mixed and cut; needs a tokenizer.
        length: Length of the run; ``None`` = as ``coba-train`` has it by default.
        context: Tokens that the model reads at most, which training refuses longer rows for; ``None`` = not known.

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
        raise UserError(
            "`inspect_data.datamodule` must have a tokenizer; got None.",
            "Pass tokenizer=AutoTokenizer.from_pretrained(...) to MultitaskDataModule.",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what reading warns of is found here again, and better told
        return _inspected(datamodule, length or RunLength(), context)


def _inspected(datamodule: MultitaskDataModule, length: RunLength, context: int | None) -> Inspection:
    read, findings = _read(datamodule.tasks)
    findings += _place_findings(datamodule.found)
    splits, split_findings = _with_splits(read)
    findings += split_findings
    if not splits:
        return Inspection(most_severe_first(findings))
    shared = shared_prompts(splits)
    emptied = emptied_findings(splits, shared)
    findings += [*shared_prompt_findings(shared, splits, datamodule.overlap), *emptied]
    # Where nothing would be left, the rest is inspected as if the prompts differed.
    disjoined = splits if emptied else disjoint(splits)[0]
    try:
        tasks = _tokenised(datamodule, read, splits, disjoined)
    except UserError as error:  # a conversation that the chat template does not take
        found = _of_error("", error)
        return Inspection(most_severe_first([*findings, found]))
    findings += fault_findings(
        (task.name, task.origin, fault)
        for task in tasks
        for fault in (
            *length_faults(task, datamodule.max_length, datamodule.overlong, context),
            *text_faults(task),
        )
    )
    for task in tasks:
        findings += contradiction_findings(task)
    usable = [task for task in tasks if all(map(len, task.kept.values()))]
    for task in usable:
        findings += label_findings(task) if task.labels else known_answer_findings(task)
    findings += [*size_findings(tasks), *common_train_findings(usable)]
    steps = _steps(datamodule, usable, length) if usable else None
    if steps is not None:
        findings += step_findings(steps)
    examples = [example_of(task, datamodule.tokenizer) for task in usable]
    return Inspection(most_severe_first(findings), tasks, examples, steps)


def _read(tasks: Sequence[Task]) -> tuple[dict[str, RowTable], list[Finding]]:
    """Read the rows of each task; where that stops, read what can be read."""
    try:
        return dict(zip([task.name for task in tasks], row_tables(tasks), strict=True)), []
    except UserError:
        pass
    read: dict[str, RowTable] = {}
    findings: list[Finding] = []
    for task in tasks:
        try:
            table, problems = readable_rows(task)
        except MissingFileError as error:
            findings.append(_of_error(task.name, error))
            continue
        findings += _problem_findings(task.name, problems)
        if len(table.store):
            read[task.name] = table
    return read, findings


def _place_findings(found: FoundTasks) -> list[Finding]:
    """Return what is not read, and which tasks are called otherwise than their data."""
    names = [f"{text!r} to {name!r}" for name, text in found.renamed.items()]
    told = {"unread": found.unread, "renamed": names}
    return [finding(kind, names=listed(which, 8)) for kind, which in told.items() if which]


def _problem_findings(task: str, problems: Sequence[UserError]) -> list[Finding]:
    """Return a finding for each kind of problem, with how often it occurs and where first."""
    kinds = Counter((problem.what, problem.cure) for problem in problems)
    first = {(problem.what, problem.cure): problem.where for problem in reversed(problems)}
    return [
        _of_error(task, UserError(f"{count} rows: {what}" if count > 1 else what, cure, where=first[what, cure]))
        for (what, cure), count in kinds.items()
    ]


def _of_error(task: str, error: UserError) -> Finding:
    return Finding("error", task, error.what.rstrip("."), error.cure, error.where)


def _with_splits(read: Mapping[str, RowTable]) -> tuple[dict[str, Splits], list[Finding]]:
    splits: dict[str, Splits] = {}
    findings: list[Finding] = []
    for name, table in read.items():
        given = Splits(table.splits(), table.store.numbers("identity"), table.origin)
        if "train" not in given.rows:
            continue  # no row of it is usable, which was said
        try:
            splits[name] = carve(name, given)
        except UserError as error:
            findings.append(_of_error(name, error))
    return splits, findings


def _tokenised(
    datamodule: MultitaskDataModule,
    read: Mapping[str, RowTable],
    splits: Mapping[str, Splits],
    disjoined: Mapping[str, Splits],
) -> list[InspectedTask]:
    rules = {task.name: task.prompt for task in datamodule.tasks}
    limits = (None, datamodule.validation_rows, datamodule.test_rows)
    tables = [read[name] for name in splits]
    stores = token_tables(tables, datamodule.tokenizer, datamodule.max_length, datamodule.num_proc)
    tasks = []
    for name, table, store in zip(splits, tables, stores, strict=True):
        overlong, cut = store.numbers("overlong"), store.numbers("num_lost") > 0
        left = disjoined[name].rows
        kept = {split: left[split][~overlong[left[split]]] for split in SPLITS}
        shown = {split: len(kept[split][:limit]) for split, limit in zip(SPLITS, limits, strict=True)}
        total, learned = (store.numbers(column).astype(np.int64) for column in ("num_tokens", "num_learned"))
        if len(short := np.flatnonzero(cut | overlong)):
            total[short], learned[short] = uncut_lengths(table, short, datamodule.tokenizer)
        lengths = total - learned, learned
        tasks.append(InspectedTask(name, rules[name], table, splits[name], kept, shown, store, *lengths))
    return tasks


def _steps(datamodule: MultitaskDataModule, tasks: Sequence[InspectedTask], length: RunLength) -> StepFacts:
    """Plan the first epoch of those tasks that can be read."""
    tokens = [select_rows(task.tokens, task.kept["train"], datamodule.max_length) for task in tasks]
    numbers = [datamodule.task_names.index(task.name) for task in tasks]
    by_task: dict[str, Any] = {}
    for name in ("sampling_weights", "max_rows", "repeats"):
        values = getattr(datamodule.mixing, name)
        by_task[name] = None if values is None else tuple(values[k] for k in numbers)
    planner = Planner(
        [task.lengths for task in tokens],
        replace(datamodule.mixing, **by_task),
        datamodule.epoch,
        (1 if datamodule.batch_tokens else datamodule.batch_size) * length.accumulate_grad_batches,
        datamodule.batching,
        datamodule.max_length,
        datamodule.batch_tokens,
        datamodule.seed,
    )
    shown = [task.kept["validation"][: task.shown["validation"]] for task in tasks]
    validation = [task.tokens.numbers("num_tokens")[rows] for task, rows in zip(tasks, shown, strict=True)]
    return step_facts([task.name for task in tasks], tokens, planner, length, validation)
