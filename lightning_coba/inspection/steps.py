"""What the optimizer will be fed: the mixture of a step, padding, and how often the run is validated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_coba.balancing.run_length import ValidationRule
from lightning_coba.data.planning.planner import Part, Planner
from lightning_coba.data.tokens.tokenization import TokenizedRows
from lightning_coba.inspection.findings import Finding, finding, listed
from lightning_coba.inspection.lengths import FEWEST_HELD_OUT_ROWS

_STEPS_MEASURED = 200  # of padding, which is alike throughout
_COST_OF_LEARNING = 3  # of a row: forward once, and backward for twice as much
#: Share of validation from which on it is worth a note, and a warning.
NOTED_SHARE, WARNED_SHARE = 0.25, 0.5
_SHARE_AIMED_AT = 0.2
_FEWEST_ROWS = 8  # of a task in a pass, where fewer passes would be too few
#: Share of the steps below which a task is rare.
RARE_BELOW = 0.5


@dataclass(frozen=True)
class RunLength:
    """How long a run is and how often it is validated, as ``coba-train`` has it.

    Attributes:
        max_epochs: epochs; used where ``max_steps`` is not above 0.
        max_steps: optimizer steps.
        val_check_interval: a share of an epoch (a float of at most 1), or a number of batches.
        accumulate_grad_batches: batches that share an optimizer step.
        window_records: records that CoBa's slopes look back on; None where no balancer takes validation passes so.
        warmup_records: the record from which its weights move; None with ``window_records``.
        check_val_every_n_epoch: epochs between two with passes; None = a number of batches counts across epochs.
    """

    max_epochs: int = 3
    max_steps: int = -1
    val_check_interval: float | int = 0.1
    accumulate_grad_batches: int = 1
    window_records: int | None = 10
    warmup_records: int | None = 3
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
        validation: Rows of each task in a validation pass, int64 ``[K]``.
        validation_tokens: Tokens that a pass reads.
    """

    tasks: tuple[str, ...]
    rows: np.ndarray
    tokens: np.ndarray
    completion_tokens: np.ndarray
    padding: float
    length: RunLength
    validation: np.ndarray
    validation_tokens: int

    @property
    def validation_share(self) -> float:
        """Share of validation in what the run computes, told from counts: a row is read, or read and learned."""
        steps = self.length.steps(self.steps_an_epoch)
        trained = _COST_OF_LEARNING * steps * self.tokens.sum() / self.steps_an_epoch / (1 - self.padding)
        validated = self.length.records(self.steps_an_epoch) * self.validation_tokens
        return float(validated / (validated + trained))

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


def step_facts(
    tasks: Sequence[str],
    tokens: Sequence[TokenizedRows],
    planner: Planner,
    length: RunLength,
    validation: Sequence[np.ndarray],
) -> StepFacts:
    """Count what the steps of the first epoch hold.

    Args:
        tasks: Names of the K tasks.
        tokens: The training rows of each.
        planner: The plan of their steps.
        length: Length of the run.
        validation: Tokens of each row of a validation pass, of each task.
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
        np.array([len(rows) for rows in validation]),
        int(sum(rows.sum() for rows in validation)),
    )


def _padding(lengths: Sequence[np.ndarray], planner: Planner, num_parts: int) -> float:
    """Return the padding's share of the first batches."""
    read = computed = 0
    for number in range(min(_STEPS_MEASURED, planner.num_steps(0))):
        parts = planner.parts(number, num_parts)
        read += sum(int(lengths[task][row]) for part in parts for task, row in part.rows.tolist())
        computed += computed_tokens(lengths, parts)
    return 1 - read / computed


def computed_tokens(lengths: Sequence[np.ndarray], parts: Sequence[Part]) -> int:
    """Return the tokens that a step computes, padding counted.

    Args:
        lengths: Tokens of each row, of each task.
        parts: The step's micro-batches.
    """
    computed = 0
    for part in parts:
        if len(part.rows):
            tokens = np.array([lengths[task][row] for task, row in part.rows.tolist()], dtype=np.int64)
            sequences = np.add.reduceat(tokens, part.sequences[:-1])
            computed += int(sequences.max()) * len(sequences)
    return computed


def step_findings(facts: StepFacts) -> list[Finding]:
    """Return what the plan of the run calls for: more validation passes, another mixture, less padding."""
    found = [*_record_findings(facts), *share_findings(facts)]
    if len(facts.tasks) > 1:
        found += _mixture_findings(facts)
    if facts.padding >= 0.3:
        found.append(finding("padding", share=facts.padding))
    return found


def share_findings(facts: StepFacts, share: float | None = None) -> list[Finding]:
    """Return what to know where validation takes much of a run.

    Args:
        facts: What the run is fed.
        share: Share of validation in its time, measured; None = told from counts.
    """
    how = "of the time, as measured" if share is not None else "of what the run computes"
    share = facts.validation_share if share is None else share
    if share <= NOTED_SHARE:
        return []
    an_epoch, rows = facts.steps_an_epoch, int(facts.validation.sum())
    steps, passes = facts.length.steps(an_epoch), facts.length.records(an_epoch)
    return [
        finding(
            "validation share",
            level="warning" if share > WARNED_SHARE else "note",
            share=share,
            how=how,
            passes=passes,
            rows=rows,
            validated=passes * rows,
            trained=round(steps * facts.rows.sum() / an_epoch),
            cure=_cheaper_validation(facts, share),
        )
    ]


def _cheaper_validation(facts: StepFacts, share: float) -> str:
    """Return the settings that leave validation a fifth.

    First fewer rows, while their loss says something; then fewer passes, while they are enough for the balancer.
    """
    length, most = facts.length, int(facts.validation.max())
    steps, records = length.steps(facts.steps_an_epoch), length.records(facts.steps_an_epoch)
    part = _SHARE_AIMED_AT / (1 - _SHARE_AIMED_AT) * (1 - share) / share  # of it that may stay
    rows = min(most, max(FEWEST_HELD_OUT_ROWS, int(part * most)))
    fewest = min(records, (length.window_records or 0) + (length.warmup_records or 0) or 1)
    passes = min(records, max(fewest, int(records * part * most / rows)))
    rows = min(rows, max(_FEWEST_ROWS, int(records * part * most / passes)))
    typed = [f"data.validation_rows={rows}"] if rows < most else []
    if passes < records:
        interval = -(-steps // passes)
        interval = interval if steps // interval >= fewest else max(1, steps // passes)
        typed.append(_validated_every(interval, length))
    return f"Set {' '.join(typed)}." if typed else "Train longer: trainer.max_steps=..."


def _record_findings(facts: StepFacts) -> list[Finding]:
    length, an_epoch = facts.length, facts.steps_an_epoch
    if length.window_records is None or length.warmup_records is None:
        return []
    records, steps = length.records(an_epoch), length.steps(an_epoch)
    wanted = length.window_records + length.warmup_records
    if records >= wanted:
        return []
    if steps < wanted:
        cure = f"Train longer: trainer.max_steps={4 * wanted} {_validated_every(2, length)}."
    else:
        cure = f"Set {_validated_every(steps // wanted, length)}."
    kind = "too few records" if records < length.warmup_records + 2 else "few records"
    spans: dict[str, Any] = {"warmup": length.warmup_records, "window": length.window_records}
    return [finding(kind, steps=steps, records=records, cure=cure, **spans)]


def _validated_every(steps: int, length: RunLength) -> str:
    """Return the options that validate after so many optimizer steps, whatever the length of an epoch."""
    batches = steps * length.accumulate_grad_batches
    return f"trainer.val_check_interval={batches} trainer.check_val_every_n_epoch=null"


def _mixture_findings(facts: StepFacts) -> list[Finding]:
    found = []
    rare = [task for task, share in zip(facts.tasks, facts.presence, strict=True) if share < RARE_BELOW]
    if rare:
        found.append(finding("rare tasks", tasks=listed(rare)))
    largest = int(np.argmax(facts.completion_shares))
    share = facts.completion_shares[largest]
    if share >= 0.8:
        found.append(finding("dominating task", facts.tasks[largest], share=share))
    return found
