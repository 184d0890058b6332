"""The numbers of an inspection of data as tables, for the screen and the page."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from lightning_coba.reports.page import Cell, PageTable

if TYPE_CHECKING:
    from lightning_coba.inspection.lengths import SplitFacts
    from lightning_coba.inspection.steps import StepFacts
    from lightning_coba.inspection.texts import LabelFacts

#: Columns of the table of tasks that fit on a screen.
TASK_COLUMNS_ON_SCREEN = ("task", "train", "val", "test", "prompt", "completion", "learned", "steps")
FIRST_STEPS = 6
_SPLIT_NAMES = {"train": "train", "validation": "val", "test": "test"}
_MOST_LABELS_SHOWN = 4


def task_table(splits: Sequence["SplitFacts"], steps: "StepFacts | None") -> PageTable:
    """Return a row a task: sizes, lengths and its share of an epoch."""
    columns: dict[str, list[str]] = {
        name: [] for name in ("task", *_SPLIT_NAMES.values(), "prompt", "completion", "longest", "cut", "too long")
    }
    for task, group in groupby(splits, key=lambda fact: fact.task):
        facts = list(group)
        train = facts[0]
        columns["task"].append(task)
        for fact in facts:
            columns[_SPLIT_NAMES[fact.split]].append(_rows(fact))
        columns["prompt"].append(_lengths(train.prompt_tokens))
        columns["completion"].append(_lengths(train.completion_tokens))
        columns["longest"].append(f"{max((int(_totals(fact).max()) for fact in facts if fact.rows), default=0)}")
        columns["cut"].append(str(sum(fact.cut for fact in facts)))
        columns["too long"].append(str(sum(fact.overlong for fact in facts)))
    if steps is not None:
        planned = {task: k for k, task in enumerate(steps.tasks)}
        for name, shares in (
            ("read", steps.token_shares),
            ("learned", steps.completion_shares),
            ("steps", steps.presence),
        ):
            columns[name] = [f"{shares[planned[task]]:.0%}" if task in planned else "-" for task in columns["task"]]
    rows = [[Cell(columns[name][i]) for name in columns] for i in range(len(columns["task"]))]
    return PageTable(
        "Tasks",
        list(columns),
        rows,
        "Rows of each split (shown/all where a fixed subset is evaluated, * = carved from train). Prompt and "
        "completion: tokens of a training row, median/95 %/longest.",
        {
            "cut": "rows that lose the beginning of their prompt",
            "too long": "rows whose completion does not fit into max_length",
            "read, learned": "the task's share of an epoch's tokens, and of those that the loss is on",
            "steps": "share of the optimizer steps that hold a row of the task",
        },
    )


def split_table(splits: Sequence["SplitFacts"]) -> PageTable:
    """Return a row a split: rows and lengths."""
    names = ("split", "rows", "evaluated", "source", "prompt", "completion", "cut", "too long", "dropped")
    rows = [
        [
            Cell(text)
            for text in (
                f"{fact.task}/{fact.split}",
                str(fact.rows),
                "" if fact.split == "train" else str(fact.shown),
                "carved from train" if fact.carved else "its own",
                _lengths(fact.prompt_tokens),
                _lengths(fact.completion_tokens),
                str(fact.cut),
                str(fact.overlong),
                str(fact.dropped),
            )
        ]
        for fact in splits
    ]
    caption = "Tokens of a row, median/95 %/longest. Dropped: the prompt is held out in another split."
    return PageTable("Splits", names, rows, caption)


def label_table(labels: Sequence["LabelFacts"]) -> PageTable:
    """Return a row a task whose completions are labels."""
    rows = []
    for fact in labels:
        total = sum(fact.counts.values())
        most = list(fact.counts.items())[:_MOST_LABELS_SHOWN]
        shown = ", ".join(f"{_clipped(label)} {count / total:.0%}" for label, count in most)
        if len(fact.counts) > len(most):
            shown += f", … {_clipped(list(fact.counts)[-1])} {list(fact.counts.values())[-1] / total:.1%}"
        unseen = str(len(fact.unseen))
        rows.append([Cell(text) for text in (fact.task, str(len(fact.counts)), f"{fact.majority:.0%}", unseen, shown)])
    return PageTable(
        "Labels",
        ("task", "labels", "majority", "unseen in train", "share of the training rows"),
        rows,
        "Tasks with few different completions. Majority: the accuracy of always giving the most frequent label.",
        is_text=True,
    )


def step_table(steps: "StepFacts", most: int = FIRST_STEPS) -> PageTable:
    """Return a row a task: what the first optimizer steps hold."""
    shown = range(min(most, steps.steps_an_epoch))
    names = ["task", *(f"step {number + 1}" for number in shown), "mean step"]
    rows = []
    for k, task in enumerate(steps.tasks):
        cells = [_pair(steps.rows[number, k], steps.tokens[number, k]) for number in shown]
        cells.append(f"{steps.rows[:, k].mean():.1f} · {steps.tokens[:, k].mean():.0f}")
        rows.append([Cell(text) for text in (task, *cells)])
    totals = [_pair(steps.rows[number].sum(), steps.tokens[number].sum()) for number in shown]
    totals.append(f"{steps.rows.sum(1).mean():.1f} · {steps.tokens.sum(1).mean():.0f}")
    rows.append([Cell(text) for text in ("all", *totals)])
    return PageTable("The first optimizer steps", names, rows, "Rows · tokens of each task in a step, padding apart.")


def run_sentence(steps: "StepFacts") -> str:
    """Say how long the run is and how often it is validated."""
    an_epoch, length = steps.steps_an_epoch, steps.length
    tokens, learned = steps.tokens.sum(), steps.completion_tokens.sum()
    return (
        f"An epoch has {an_epoch:,} optimizer steps, {tokens:,} tokens that are read and {learned:,} that are learned; "
        f"{steps.padding:.1%} of the batches is padding. The run has {length.steps(an_epoch):,} steps and "
        f"{length.records(an_epoch)} validation passes: CoBa's weights move from pass {length.warmup_records} on, and "
        f"its slopes look back on {length.window_records}."
    )


def _rows(fact: "SplitFacts") -> str:
    text = str(fact.rows) if fact.split == "train" or fact.shown == fact.rows else f"{fact.shown}/{fact.rows}"
    return text + ("*" if fact.carved else "")


def _totals(fact: "SplitFacts") -> np.ndarray:
    return fact.prompt_tokens + fact.completion_tokens


def _lengths(tokens: np.ndarray) -> str:
    if not len(tokens):
        return "-"
    return f"{np.median(tokens):.0f}/{np.quantile(tokens, 0.95):.0f}/{tokens.max()}"


def _pair(rows: int, tokens: int) -> str:
    return f"{rows} · {tokens}" if rows else "-"


def _clipped(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 20 else f"{text[:19]}…"
