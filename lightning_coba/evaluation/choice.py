"""What a task is asked, and which metrics fit it: read off its rows, or named by the user."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning_coba.errors import UserError
from lightning_coba.evaluation.metrics import METRICS, TextMetric
from lightning_coba.evaluation.normalisation import NO_SPACES, final_number
from lightning_coba.evaluation.rows import EvaluationRow, evaluation_rows, known_completions, longest_answer

ENGLISH = ("en", "eng", "english")
#: Labels are short, on one line, and a row's label is also that of many others.
LONGEST_LABEL, ROWS_PER_LABEL = 60, 2


class TaskPlan(NamedTuple):
    """How a task is evaluated.

    Attributes:
        name: its name.
        rows: those to answer.
        max_new_tokens: of an answer.
        metrics: name -> metric, the main one first.
    """

    name: str
    rows: list[EvaluationRow]
    max_new_tokens: int
    metrics: Mapping[str, TextMetric]


def planned(
    datamodule: Any,
    split: str,
    tasks: Iterable[str],
    wanted: Mapping[str, Sequence[str]],
    max_new_tokens: int | None = None,
) -> list[TaskPlan]:
    """Return how each task is evaluated.

    Args:
        datamodule: a `MultitaskDataModule` which has read its data (``setup``).
        split: whose rows are answered.
        tasks: their names.
        wanted: task -> names of metrics, as `checked_metrics` returns them; for any other task those that fit its rows.
        max_new_tokens: of an answer; None = as `longest_answer` says.
    """
    plans = []
    for task in tasks:
        index = datamodule.task_names.index(task)
        rows = evaluation_rows(datamodule, split, index)
        names = wanted.get(task) or chosen_metrics(rows, known_completions(datamodule, index))
        metrics = {name: metric_of(name, task, rows) for name in names}
        plans.append(TaskPlan(task, rows, max_new_tokens or longest_answer(datamodule, index), metrics))
    return plans


def chosen_metrics(rows: Sequence[EvaluationRow], known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the metrics that fit a task, the main one first.

    Rows with ``answers`` are questions (exact and partial match of the words); some may have none, as in SQuAD 2.0.
    Completions that end with a calculated number, which is the ``label`` where there is one, are measured by that
    number. Short completions on one line of which few are different are labels. All else is text: chrF first, since it
    needs no words.

    Args:
        rows: those to answer.
        known: further completions of the task, so that the choice does not depend on how many rows are asked.
    """
    if any(_answers(row) for row in rows):
        return ("answer_match", "token_f1")
    if sum(map(_ends_with_number, rows)) >= 0.9 * len(rows):
        return ("numeric_match",)
    golds = [gold.strip() for gold in (*known, *(row.gold for row in rows))]
    short = all("\n" not in gold and len(gold) <= LONGEST_LABEL for gold in golds)
    if short and len(golds) >= ROWS_PER_LABEL * len(set(golds)):
        return ("accuracy", "macro_f1")
    return ("chrf", "bleu", "rouge_l", "exact_match")


def checked_metrics(wanted: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the metrics that a user names, task -> names.

    Raises:
        ValueError: there is no such task or metric.
    """
    for task, names in wanted.items():
        if task not in tasks:
            raise UserError(
                f"`evaluate.metrics` must name tasks of the run ({', '.join(tasks)}); got {task!r}.",
                "Correct the name.",
            )
        unknown = [name for name in names if name not in METRICS]
        if unknown or not names:
            raise UserError(
                f"`evaluate.metrics` must be among {', '.join(METRICS)}; got {unknown[0] if unknown else 'none'!r} for "
                f"task {task!r}.",
                "Choose one or more of them. (pass@1 is asked for by run_code.)",
            )
    return {task: tuple(dict.fromkeys(names)) for task, names in wanted.items()}


def metric_of(name: str, task: str, rows: Sequence[EvaluationRow]) -> TextMetric:
    """Return a metric for a task, fitted to its language and to the labels that its rows have."""
    options: dict[str, Any] = {}
    if name == "macro_f1":
        options["labels"] = sorted({row.gold for row in rows})
    elif name in ("answer_match", "token_f1"):
        options["articles"] = not is_english(task, rows)
    elif name == "bleu" and _without_spaces(rows):
        options["tokenize"] = "char"
    return METRICS[name](**options)


def targets_of(row: EvaluationRow) -> list[str]:
    """Return the right answers to a row: its ``answers``, and else its completion."""
    return _answers(row) or [row.gold]


def is_english(task: str, rows: Sequence[EvaluationRow]) -> bool:
    """Whether a task's answers are English, by the column ``lang`` of its rows, or else by its name."""
    languages = {str(row.fields["lang"]).lower() for row in rows if row.fields.get("lang")}
    return languages <= set(ENGLISH) if languages else task.lower() in ENGLISH


def _answers(row: EvaluationRow) -> list[str]:
    answers = row.fields.get("answers")
    if isinstance(answers, Mapping):  # as SQuAD on the hub has them
        answers = answers.get("text")
    if not isinstance(answers, Sequence) or isinstance(answers, str):
        return []
    return [answer for answer in answers if isinstance(answer, str)]


def _ends_with_number(row: EvaluationRow) -> bool:
    if "####" not in row.gold and "label" not in row.fields:
        return False
    last_line = row.gold.strip().splitlines()[-1]
    number = final_number(row.gold) if "####" in last_line or "=" in last_line else None
    label = row.fields.get("label")
    return number is not None and (label is None or number == final_number(str(label)))


def _without_spaces(rows: Sequence[EvaluationRow]) -> bool:
    letters = [character for row in rows for character in row.gold if character.isalpha()]
    return sum(bool(NO_SPACES.match(letter)) for letter in letters) > 0.5 * len(letters)
