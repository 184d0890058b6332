"""The numbers of an inspection of data as tables, for the screen and the page."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_coba.reports.page import PageTable

if TYPE_CHECKING:
    from lightning_coba.inspection.inspected_task import InspectedTask
    from lightning_coba.inspection.steps import StepFacts

FIRST_STEPS = 6
_MOST_LABELS_SHOWN = 4


def task_table(tasks: Sequence["InspectedTask"], steps: "StepFacts | None") -> PageTable:
    """Return one row per task: sizes, lengths and its share of an epoch."""
    shares = {}
    if steps is not None:
        shares = dict(zip(steps.tasks, zip(steps.completion_shares, steps.presence, strict=True), strict=True))
    rows = []
    for task in tasks:
        sizes = [_size(task, split) for split in task.kept]
        of_epoch = [f"{share:.0%}" for share in shares[task.name]] if task.name in shares else ["-", "-"]
        rows.append((task.name, *sizes, *_lengths(task, "train"), *of_epoch))
    caption = (
        "Rows of each split (shown/all where a fixed subset is evaluated, * = carved from train). Prompt and "
        "completion: tokens of a training row, median/95 %/longest. Learned: share of the tokens that the loss is on. "
        "Steps: share of the optimizer steps that hold a row of the task."
    )
    return _table("Tasks", "task,train,val,test,prompt,completion,learned,steps", rows, caption)


def split_table(tasks: Sequence["InspectedTask"]) -> PageTable:
    """Return one row per split: rows and lengths."""
    rows = []
    for task in tasks:
        for split, kept in task.kept.items():
            shown = "" if split == "train" else task.shown[split]
            source = "carved from train" if split in task.carved else "its own"
            row = (f"{task.name}/{split}", len(kept), shown, source, *_lengths(task, split))
            rows.append((*row, task.lengths(split).max(initial=0), *task.counts(split).values()))
    caption = (
        "Tokens of a row, median/95 %/longest. Longest: prompt and completion together. Cut: rows that lose the "
        "beginning of their prompt. Too long: rows whose completion does not fit into max_length. Dropped: rows whose "
        "prompt is held out in another split."
    )
    names = "split,rows,evaluated,source,prompt,completion,longest,cut,too long,dropped"
    return _table("Splits", names, rows, caption)


def label_table(tasks: Sequence["InspectedTask"]) -> PageTable:
    """Return one row per task whose completions are labels."""
    rows = []
    for task in tasks:
        shares = [(" ".join(label.split()), count / len(task.kept["train"])) for label, count in task.labels.items()]
        shown = ", ".join(f"{_clipped(label)} {share:.0%}" for label, share in shares[:_MOST_LABELS_SHOWN])
        if len(shares) > _MOST_LABELS_SHOWN:
            shown += f", … {_clipped(shares[-1][0])} {shares[-1][1]:.1%}"
        rows.append((task.name, len(shares), f"{shares[0][1]:.0%}", len(task.unseen_labels), shown))
    names = "task,labels,majority,unseen in train,share of the training rows"
    caption = "Tasks with few different completions. Majority: the accuracy of always giving the most frequent label."
    return _table("Labels", names, rows, caption, is_text=True)


def step_table(steps: "StepFacts", most: int = FIRST_STEPS) -> PageTable:
    """Return one row per task: what the first optimizer steps hold."""
    rows = []
    counts = [(task, steps.rows[:, k], steps.tokens[:, k]) for k, task in enumerate(steps.tasks)]
    for task, held, tokens in [*counts, ("all", steps.rows.sum(axis=1), steps.tokens.sum(axis=1))]:
        first = (f"{n} · {t}" if n else "-" for n, t in zip(held[:most], tokens[:most], strict=True))
        rows.append((task, *first, f"{held.mean():.1f} · {tokens.mean():.0f}"))
    shown = min(most, steps.steps_an_epoch)
    names = ",".join(["task", *(f"step {number + 1}" for number in range(shown)), "mean step"])
    return _table("The first optimizer steps", names, rows, "Rows · tokens of each task in a step, padding apart.")


def run_sentence(steps: "StepFacts") -> str:
    """Say how long the run is and how often it is validated."""
    an_epoch, length = steps.steps_an_epoch, steps.length
    tokens, learned = steps.tokens.sum(), steps.completion_tokens.sum()
    said = (
        f"An epoch has {an_epoch:,} optimizer steps, {tokens:,} tokens that are read and {learned:,} that are learned; "
        f"{steps.padding:.1%} of the batches is padding. The run has {length.steps(an_epoch):,} steps and "
        f"{length.records(an_epoch)} validation passes"
    )
    if length.window_records is None:
        return f"{said}."
    return (
        f"{said}: CoBa's weights move from pass {length.warmup_records} on at the earliest, and its slopes look back "
        f"on {length.window_records}."
    )


def _table(
    title: str, names: str, rows: Iterable[Sequence[object]], caption: str, *, is_text: bool = False
) -> PageTable:
    columns = zip(*([str(value) for value in row] for row in rows), strict=True)
    return PageTable.of(title, dict(zip(names.split(","), columns, strict=True)), caption, is_text=is_text)


def _size(task: "InspectedTask", split: str) -> str:
    rows, shown = len(task.kept[split]), task.shown[split]
    return f"{'' if shown == rows else f'{shown}/'}{rows}{'*' * (split in task.carved)}"


def _lengths(task: "InspectedTask", split: str) -> list[str]:
    """Return the lengths of prompts and of completions as text."""
    kept = task.kept[split]
    if not len(kept):
        return ["-", "-"]
    columns = task.prompt_tokens[kept], task.completion_tokens[kept]
    return [f"{np.median(tokens):.0f}/{np.quantile(tokens, 0.95):.0f}/{tokens.max()}" for tokens in columns]


def _clipped(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}…"
