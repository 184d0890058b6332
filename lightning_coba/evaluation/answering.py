"""Let a model answer the rows of its tasks, keeping every batch on disk as soon as it is there."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_coba.evaluation.choice import TaskPlan
from lightning_coba.evaluation.predictions import Predictions, fingerprint
from lightning_coba.models.generation import Decoding, generated_batches


@dataclass(frozen=True)
class Answerer:
    """A model that answers, loaded when its first answer is missing.

    Attributes:
        name: what the progress bar calls it.
        load: returns the model.
        tokenizer: of the model.
        identity: changes when the weights do.
        folder: where the answers to each task are kept.
        decoding: how tokens are chosen.
        batch_tokens: of a batch; see `generate`.
        fresh: whether kept answers are thrown away.
        answering: what the model is put into while it answers, such as ``disable_adapter`` of PEFT.
    """

    name: str
    load: Callable[[], Any]
    tokenizer: Any
    identity: Any
    folder: Path
    decoding: Decoding
    batch_tokens: int
    fresh: bool = False
    answering: Callable[[], AbstractContextManager[Any]] = nullcontext

    @cached_property
    def model(self) -> Any:
        """The loaded model."""
        return self.load()

    def forget(self) -> None:
        """Let the model's memory go."""
        self.__dict__.pop("model", None)

    def answer(self, plan: TaskPlan, on_rows: Callable[[int], object]) -> tuple[list[list[str]], int]:
        """Return the answers to all rows of a task, and how many kept ones of other settings were replaced.

        Args:
            plan: of the task; answers that are kept are not generated again.
            on_rows: called with the number of rows that were done.
        """
        settings = {"model": self.identity, "decoding": self.decoding, "max_new_tokens": plan.max_new_tokens}
        if self.decoding.temperature:  # which rows share a batch decides who gets which draw
            settings["batch_tokens"] = self.batch_tokens
        kept = Predictions(self.folder / f"{plan.name}.jsonl", fingerprint(settings), self.fresh)
        done = frozenset(place for place, row in enumerate(plan.rows) if kept.answers(row) is not None)
        on_rows(len(done))
        if len(done) < len(plan.rows):
            with self.answering():
                self._generate(kept, plan, done, on_rows)
        return [kept.answers(row) or [] for row in plan.rows], kept.num_replaced

    def _generate(
        self, kept: Predictions, plan: TaskPlan, done: frozenset[int], on_rows: Callable[[int], object]
    ) -> None:
        prompts = [row.prompt_ids for row in plan.rows]
        end = self.tokenizer.eos_token_id
        for batch, found in generated_batches(
            self.model, prompts, end, plan.max_new_tokens, self.batch_tokens, self.decoding, done
        ):
            new = [(plan.rows[row], samples) for row, samples in zip(batch.rows, found, strict=True) if row not in done]
            kept.add(
                [row for row, _ in new],
                [[self.tokenizer.decode(ids, skip_special_tokens=True) for ids in samples] for _, samples in new],
                [[len(ids) for ids in samples] for _, samples in new],
            )
            on_rows(len(new))


def answer_tasks(
    answerer: Answerer, plans: Sequence[TaskPlan], progress: bool
) -> tuple[dict[str, list[list[str]]], dict[str, float], int]:
    """Return the answers to all tasks, the seconds that each took, and how many kept answers were replaced.

    Args:
        answerer: the model.
        plans: of the tasks.
        progress: whether a bar shows rows and rows per second.
    """
    answers: dict[str, list[list[str]]] = {}
    seconds: dict[str, float] = {}
    replaced = 0
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, disable=not progress) as bar:
        shown = bar.add_task("", total=sum(len(plan.rows) for plan in plans), rate="")

        def advance(count: int) -> None:
            bar.advance(shown, count)
            speed = bar.tasks[shown].speed
            bar.update(shown, rate=f"{speed:.1f} rows/s" if speed else "")

        for plan in plans:
            bar.update(shown, description=f"{answerer.name}: {plan.name}")
            begin = time.perf_counter()
            answers[plan.name], count = answerer.answer(plan, advance)
            seconds[plan.name] = time.perf_counter() - begin
            replaced += count
    return answers, seconds, replaced
