"""What the optimizer will be fed: the mixture of a step, padding, and how often the run is validated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_coba.balancing.run_length import ValidationRule
from lightning_coba.data.planning.planner import Planner
from lightning_coba.data.tokens.tokenization import TokenizedRows
from lightning_coba.inspection.findings import Finding, finding, listed

_STEPS_MEASURED = 200  # of padding, which is alike throughout


@dataclass(frozen=True)
class RunLength:
    """How long a run is and how often it is validated, as ``coba-train`` has it.

    Attributes:
        max_epochs: epochs; used where ``max_steps`` is not above 0.
        max_steps: optimizer steps.
        val_check_interval: a share of an epoch (a float of at most 1), or a number of batches.
        accumulate_grad_batches: batches that share an optimizer step.
        window_records: records that CoBa's slopes look back on.
        warmup_records: the record from which its weights move.
        check_val_every_n_epoch: epochs between two with passes; None = a number of batches counts across epochs.
    """

    max_epochs: int = 3
    max_steps: int = -1
    val_check_interval: float | int = 0.1
    accumulate_grad_batches: int = 1
    window_records: int = 10
    warmup_records: int = 3
    check_val_every_n_epoch: int | None = 1

    def steps(self, steps_an_epoch: int) -> int:
        """Return the optimizer steps of the run."""
        return self.max_steps if self.max_steps > 0 else self.max_epochs * steps_an_epoch

    def records(self, steps_an_epoch: int) -> int:
        """Return how many validation passes there are, each of which is a record for the balancer."""
        if isinstance(self.val_check_interval, int):
            interval = max(1, self.val_check_interval // self.accumulate_grad_batches)
        else:
            interval = max(1, int(steps_an_epoch * self.val_check_interval))
        rule = ValidationRule(steps_an_epoch, interval, self.check_val_every_n_epoch)
        return rule.num_records(self.steps(steps_an_epoch))


@dataclass(frozen=True, eq=False)
class StepFacts:
    """The first epoch as it is planned.

    Attributes:
        tasks: Names of the K tasks.
        rows: Rows of each task in each step, int64 ``[steps, K]``.
        tokens: The same in tokens that are read.
        completion_tokens: The same in tokens that are learned.
        padding: Share of what the model computes that is padding.
        length: Length of the run.
    """

    tasks: tuple[str, ...]
    rows: np.ndarray
    tokens: np.ndarray
    completion_tokens: np.ndarray
    padding: float
    length: RunLength

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self.rows)

    @property
    def token_shares(self) -> np.ndarray:
        """Share of each task in the tokens of an epoch, float64 ``[K]``."""
        return self.tokens.sum(axis=0) / self.tokens.sum()

    @property
    def completion_shares(self) -> np.ndarray:
        """Share of each task in the tokens that are learned in an epoch, float64 ``[K]``."""
        return self.completion_tokens.sum(axis=0) / self.completion_tokens.sum()

    @property
    def presence(self) -> np.ndarray:
        """Share of the steps that hold a row of each task, float64 ``[K]``."""
        return (self.rows > 0).mean(axis=0)


def step_facts(tasks: Sequence[str], tokens: Sequence[TokenizedRows], planner: Planner, length: RunLength) -> StepFacts:
    """Count what the steps of the first epoch hold.

    Args:
        tasks: Names of the K tasks.
        tokens: The training rows of each.
        planner: The plan of their steps.
        length: Length of the run.
    """
    plan = planner.plan(0)
    ends = plan.sequences[plan.steps]  # of each step, in rows
    num_steps = len(ends) - 1
    k, row = plan.rows.astype(np.int64).T
    cell = np.repeat(np.arange(num_steps), np.diff(ends)) * len(tasks) + k

    def counted(values: Sequence[np.ndarray]) -> np.ndarray:
        starts = np.cumsum([0, *map(len, values)])
        planned = np.concatenate(values)[starts[k] + row]
        return np.bincount(cell, planned, num_steps * len(tasks)).astype(np.int64).reshape(num_steps, -1)

    lengths = [task.lengths for task in tokens]
    return StepFacts(
        tuple(tasks),
        counted([np.ones(len(task)) for task in tokens]),
        counted(lengths),
        counted([task.completion_tokens for task in tokens]),
        _padding(lengths, planner, length.accumulate_grad_batches),
        length,
    )


def _padding(lengths: Sequence[np.ndarray], planner: Planner, num_parts: int) -> float:
    """Return the padding's share of the first batches."""
    read = computed = 0
    for number in range(min(_STEPS_MEASURED, planner.num_steps(0))):
        for part in planner.parts(number, num_parts):
            if not len(part.rows):
                continue
            tokens = np.array([lengths[task][row] for task, row in part.rows.tolist()], dtype=np.int64)
            sequences = np.add.reduceat(tokens, part.sequences[:-1])
            read += int(tokens.sum())
            computed += int(sequences.max()) * len(sequences)
    return 1 - read / computed


def step_findings(facts: StepFacts) -> list[Finding]:
    """Return what the plan of the run calls for: more validation passes, another mixture, less padding."""
    found = _record_findings(facts)
    if len(facts.tasks) > 1:
        found += _mixture_findings(facts)
    if facts.padding >= 0.3:
        found.append(finding("padding", share=facts.padding))
    return found


def _record_findings(facts: StepFacts) -> list[Finding]:
    length, an_epoch = facts.length, facts.steps_an_epoch
    records, steps = length.records(an_epoch), length.steps(an_epoch)
    wanted = length.window_records + length.warmup_records
    if records >= wanted:
        return []
    if steps < wanted:
        cure = f"Train longer: trainer.max_steps={4 * wanted} {_validated_every(2)}."
    else:
        cure = f"Set {_validated_every(max(1, steps // (2 * wanted)))}."
    kind = "too few records" if records < length.warmup_records + 2 else "few records"
    spans: dict[str, Any] = {"warmup": length.warmup_records, "window": length.window_records}
    return [finding(kind, steps=steps, records=records, cure=cure, **spans)]


def _validated_every(steps: int) -> str:
    """Return the options that validate after so many optimizer steps, whatever the length of an epoch."""
    return f"trainer.val_check_interval={steps} trainer.check_val_every_n_epoch=null"


def _mixture_findings(facts: StepFacts) -> list[Finding]:
    found = []
    rare = [task for task, share in zip(facts.tasks, facts.presence, strict=True) if share < 0.5]
    if rare:
        found.append(finding("rare tasks", tasks=listed(rare)))
    largest = int(np.argmax(facts.completion_shares))
    share = facts.completion_shares[largest]
    if share >= 0.8:
        found.append(finding("dominating task", facts.tasks[largest], share=share))
    return found
