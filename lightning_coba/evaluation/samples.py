"""Answers to look at: prompt, right answer, the model's and the base model's side by side, on one page."""

import json
from pathlib import Path

from lightning_coba.evaluation.choice import targets_of
from lightning_coba.evaluation.results import Evaluation, TaskResult
from lightning_coba.evaluation.rows import EvaluationRow
from lightning_coba.reports.page import render

#: Rows of each task from the beginning, and as many of those with the lowest score.
SHOWN_ROWS = 5
_LONGEST = 3000


def write_samples(evaluation: Evaluation, path: Path) -> None:
    """Write the page: the first rows of each task, and those with the lowest scores."""
    tasks = [_task(name, result) for name, result in evaluation.tasks.items() if result.rows]
    title = f"Answers on the {evaluation.split} split: {evaluation.settings.get('model', 'model')}"
    begin = (
        f"At most {SHOWN_ROWS} rows of each task from the beginning, then at most {SHOWN_ROWS} of the others, with the "
        "lowest score of the task's main metric."
    )
    path.write_text(render("answers.html", title=title, begin=begin, tasks=tasks), encoding="utf-8")


def _task(name: str, result: TaskResult) -> dict[str, object]:
    scored = {
        metric: measured for metric, measured in result.metrics.items() if len(measured.per_row) == len(result.rows)
    }
    first, rest = range(len(result.rows))[:SHOWN_ROWS], range(len(result.rows))[SHOWN_ROWS:]
    main = next(iter(scored), "")
    worst = sorted(rest, key=lambda row: scored[main].per_row[row])[:SHOWN_ROWS] if main else []
    samples = []
    for place in [*first, *worst]:
        row = result.rows[place]
        texts = {
            "Prompt": _prompt(row),
            "Right": "\n- or -\n".join(targets_of(row)),
            "Answer": result.answers[place][0],
        }
        if result.base_answers:
            texts["Base model"] = result.base_answers[place][0]
        scores = ", ".join(f"{metric} {100 * measured.per_row[place]:.0f}" for metric, measured in scored.items())
        texts = {heading: _cut(text) for heading, text in texts.items()}
        samples.append({"number": row.number, "scores": scores, "texts": texts, "worst": place in worst})
    summary = ", ".join(f"{metric} {100 * measured.score.value:.1f} %" for metric, measured in result.metrics.items())
    shown = f"shown: the first {len(first)}" + (f", and {len(worst)} with the lowest {main}" if worst else "")
    return {"name": name, "summary": f"{summary} of {len(result.rows)} rows", "shown": shown, "samples": samples}


def _prompt(row: EvaluationRow) -> str:
    """Return what was asked, of a conversation turn by turn with the roles."""
    if row.messages is None:
        return row.prompt
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in json.loads(row.messages)[:-1])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
