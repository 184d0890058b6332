"""Answers to look at: prompt, right answer, the model's and the base model's side by side, on one page."""

import json
from pathlib import Path

from jinja2 import Environment

from lightning_coba.evaluation.choice import targets_of
from lightning_coba.evaluation.results import Evaluation, TaskResult
from lightning_coba.evaluation.rows import EvaluationRow

#: Rows of each task from the beginning, and as many of those with the lowest score.
SHOWN_ROWS = 5
_LONGEST = 3000

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #1a1a1a; }
  h1 { font-size: 1.5rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
  nav { display: flex; flex-wrap: wrap; gap: 0 1rem; }
  article { margin: 1rem 0; border: 1px solid #ddd; border-radius: 6px; padding: .75rem 1rem; }
  .head { color: #666; font-size: .85rem; margin: 0 0 .5rem; }
  .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: .75rem; }
  h3 { font-size: .75rem; text-transform: uppercase; letter-spacing: .05em; color: #666; margin: 0 0 .2rem; }
  pre { font: 13px/1.45 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0;
        background: #f6f6f6; border-radius: 4px; padding: .5rem; max-height: 22rem; overflow: auto; }
  .gold pre { background: #eef6ee; }
  @media (prefers-color-scheme: dark) {
    body { background: #161616; color: #ddd; } article { border-color: #3a3a3a; } pre { background: #222; }
    .gold pre { background: #1d2b1d; } h3, .head { color: #999; } a { color: #8ab4f8; }
  }
</style>
<h1>{{ title }}</h1>
<p>At most {{ count }} rows of each task from the beginning, then at most {{ count }} of the others, with the lowest
score of the task's main metric.</p>
<nav>{% for task in tasks %}<a href="#{{ task.name }}">{{ task.name }}</a>{% endfor %}</nav>
{% for task in tasks %}
<h2 id="{{ task.name }}">{{ task.name }}</h2>
<p class="head">{{ task.summary }}; {{ task.shown }}</p>
{% for sample in task.samples %}
<article>
<p class="head">row {{ sample.number }}, {{ sample.scores }}{{ ", of the lowest scores" if sample.worst }}</p>
<div class="columns">
{% for heading, text in sample.texts %}
<div class="{{ "gold" if loop.index == 2 }}"><h3>{{ heading }}</h3><pre>{{ text }}</pre></div>
{% endfor %}
</div>
</article>
{% endfor %}
{% endfor %}
""")


def write_samples(evaluation: Evaluation, path: Path) -> None:
    """Write the page: the first rows of each task, and those with the lowest scores."""
    tasks = [_task(name, result) for name, result in evaluation.tasks.items() if result.rows]
    title = f"Answers on the {evaluation.split} split: {evaluation.settings.get('model', 'model')}"
    path.write_text(_PAGE.render(title=title, tasks=tasks, count=SHOWN_ROWS), encoding="utf-8")


def _task(name: str, result: TaskResult) -> dict[str, object]:
    scored = {
        metric: measured for metric, measured in result.metrics.items() if len(measured.per_row) == len(result.rows)
    }
    first = list(range(min(SHOWN_ROWS, len(result.rows))))
    rest = range(len(first), len(result.rows))
    main = next(iter(scored.values()), None)
    worst = [] if main is None else sorted(rest, key=lambda row: main.per_row[row])[:SHOWN_ROWS]
    samples = []
    for place in first + worst:
        row = result.rows[place]
        texts = [
            ("Prompt", _prompt(row)),
            ("Right", "\n- or -\n".join(targets_of(row))),
            ("Answer", result.answers[place][0]),
        ]
        if result.base_answers:
            texts.append(("Base model", result.base_answers[place][0]))
        scores = ", ".join(f"{metric} {100 * measured.per_row[place]:.0f}" for metric, measured in scored.items())
        texts = [(heading, _cut(text)) for heading, text in texts]
        samples.append({"number": row.number, "scores": scores, "texts": texts, "worst": place in worst})
    summary = ", ".join(f"{metric} {100 * measured.score.value:.1f} %" for metric, measured in result.metrics.items())
    shown = f"shown: the first {len(first)}" + (
        f", and {len(worst)} with the lowest {next(iter(scored))}" if worst else ""
    )
    return {"name": name, "summary": f"{summary} of {len(result.rows)} rows", "shown": shown, "samples": samples}


def _prompt(row: EvaluationRow) -> str:
    """Return what was asked, of a conversation turn by turn with the roles."""
    if row.messages is None:
        return row.prompt
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in json.loads(row.messages)[:-1])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
