"""From the answers to a task to its metrics, those of the base model beside them."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_coba.evaluation.choice import TaskPlan, targets_of
from lightning_coba.evaluation.metrics import PassAtK, TextMetric
from lightning_coba.evaluation.programs import has_program, why_not_run
from lightning_coba.evaluation.results import Measured, TaskResult
from lightning_coba.evaluation.rows import EvaluationRow
from lightning_coba.evaluation.scores import difference_of, score_of, statistics_of

#: Rows with tests, and the answers to each -> which of these pass.
RunTests = Callable[[Sequence[EvaluationRow], Sequence[Sequence[str]]], list[list[bool]]]


def measure(
    plan: TaskPlan,
    answers: list[list[str]],
    base_answers: list[list[str]],
    seconds: float,
    run_tests: RunTests | None = None,
    k: int = 1,
) -> TaskResult:
    """Return the metrics of a task.

    Args:
        plan: its rows and metrics.
        answers: to each row.
        base_answers: of the base model; empty where there are none.
        seconds: that the answers took.
        run_tests: runs the rows' tests, as `code_execution.run_tests` does; None does not.
        k: answers of which one has to pass.
    """
    rows = plan.rows
    metrics: dict[str, Measured] = {}
    notes: list[str] = []
    tested = [place for place, row in enumerate(rows) if has_program(row)]
    if tested and run_tests is None:
        notes.append(f"{len(tested)} rows have tests, which were not run (run_code=True, --run-code)")
    elif run_tests is not None:
        reasons = Counter(why_not_run(rows[place]) for place in tested)
        notes += [f"the tests of {count} rows did not run: {reason}" for reason, count in reasons.items() if reason]
        runnable = [place for place in tested if why_not_run(rows[place]) is None]
        if runnable:
            metrics[f"pass@{k}"] = _passes(rows, answers, base_answers, runnable, run_tests, k)
    targets = [targets_of(row) for row in rows]
    for name, metric in plan.metrics.items():
        ours = statistics_of(metric, answers, targets)
        metrics[name] = _measured(metric, ours, statistics_of(metric, base_answers, targets) if base_answers else None)
    return TaskResult(metrics, rows, answers, base_answers, seconds, notes)


def _passes(
    rows: list[EvaluationRow],
    answers: list[list[str]],
    base_answers: list[list[str]],
    places: list[int],
    run_tests: RunTests,
    k: int,
) -> Measured:
    metric = PassAtK(k)
    tested = [rows[place] for place in places]

    def statistics(given: list[list[str]]) -> Tensor:
        verdicts = run_tests(tested, [given[place] for place in places])
        return torch.tensor([metric.of_verdicts(one) for one in verdicts], dtype=torch.float64)

    return _measured(metric, statistics(answers), statistics(base_answers) if base_answers else None)


def _measured(metric: TextMetric, ours: Tensor, base: Tensor | None) -> Measured:
    score, per_row = score_of(metric, ours), metric.score(ours).tolist()
    if base is None:
        return Measured(score, len(ours), per_row)
    return Measured(score, len(ours), per_row, score_of(metric, base), difference_of(metric, ours, base))
