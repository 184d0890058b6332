"""One page about one run: what became of the tasks, why, and with which settings."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from lightning_coba.log_keys import TEST_LOSS, VAL_LOSS
from lightning_coba.reports.formats import DASH, count, percent
from lightning_coba.reports.page import Cell, PageFigure, PageTable, page_environment
from lightning_coba.reports.result_names import result_name, superlative, written
from lightning_coba.reports.run_page.diagnosis import VERDICTS, RunStory, read_story
from lightning_coba.reports.run_page.text import headline, in_words
from lightning_coba.runs.card import MULTITASK, results_of
from lightning_coba.runs.collection import Run
from lightning_coba.runs.files import RunFiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Settings that a reader wants to know first.
FIRST_SETTINGS = {
    "model": "model.model",
    "learning rate": "optimizer.lr",
    "batch size": "data.batch_size",
    "tokens a row at most": "data.max_length",
}


def write_run_page(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a run folder: one file that needs no other and no network.

    Use it on a finished run, on one still under way, or on one that failed; ``coba-train`` does so at the end, and
    ``coba-report runs/<name>`` at any time. The page says in words which tasks improved, burnt out or were left behind
    and what the balancer answered, and shows the losses, weights and scores.

    Args:
        folder: of the run.

    Returns:
        The file.

    Raises:
        FileNotFoundError: the folder is not one of a run.

    Example:
        ``write_run_page("runs/demo-coba-seed1")`` writes ``runs/demo-coba-seed1/report.html``.
    """
    story = read_story(folder)
    path = RunFiles(Path(folder)).page
    partial = path.with_suffix(".html.partial")
    partial.write_text(render_run_page(story), encoding="utf-8")
    os.replace(partial, path)
    return path


def write_run_pages(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Write the page of every folder that is itself the folder of a run, and return these pages."""
    return [write_run_page(folder) for folder in folders if RunFiles(Path(folder)).card.is_file()]


def render_run_page(story: RunStory) -> str:
    """Return the page; everything that comes from the run is escaped."""
    settings = [(name, _as_yaml(value)) for name, value in (story.run.settings or {}).items()]
    packages = [f"{name} {version}" for name, version in (story.run.card.get("packages") or {}).items() if version]
    return page_environment(autoescape=True).from_string(_HTML).render(
        title=_title(story),
        facts=_facts(story.run),
        headline=headline(story),
        notes=story.notes,
        blocks=[*_phases(story.run), *_tables(story), *_figures(story), *_results(story.run), *_cost(story)],
        settings=settings,
        packages=packages,
        folder=str(story.run.folder),
    )  # fmt: skip


def _as_yaml(value: object) -> str:
    """Return a setting as it is typed: None is null, True is true."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _title(story: RunStory) -> str:
    """Return the run's name; the runs of a sweep share one."""
    run, folder = story.run, story.run.folder.resolve().name
    name = str(run.card.get("name") or folder)
    return name if name == folder else f"{name}: {run.method}" + ("" if run.seed is None else f", seed {run.seed}")


def _facts(run: Run) -> str:
    settings = run.settings or {}
    facts = [
        f"suite {run.suite}",
        *([f"system {run.system}"] if run.system != MULTITASK else []),
        f"method {run.method}",
        *([f"seed {run.seed}"] if run.seed is not None else []),
        *([count(len(run.tasks), "task")] if run.card.get("tasks") else []),
        f"status {run.status}",
        *(f"{name} {settings[key]}" for name, key in FIRST_SETTINGS.items() if key in settings),
    ]
    return " · ".join(facts)


def task_table(story: RunStory) -> PageTable:
    """Return a row a task: what it came to, in numbers."""
    columns: dict[str, list[str]] = {
        "task": [task.task for task in story.tasks],
        "came to": [task.verdict for task in story.tasks],
        "at the start": [_number(task.start) for task in story.tasks],
        "lowest": [_number(task.lowest) for task in story.tasks],
        "at step": [_number(task.lowest_step, ".0f") for task in story.tasks],
        "at the end": [_number(task.last) for task in story.tasks],
        "change": [percent(task.change) for task in story.tasks],
        "above lowest": [percent(task.rise) for task in story.tasks],
        "slope": [_number(task.slope, "+.4f") for task in story.tasks],
        "first weight": [_number(task.weights[0]) if task.weights else DASH for task in story.tasks],
        "last weight": [_number(task.weights[-1]) if task.weights else DASH for task in story.tasks],
    }
    shown = {name: cells for name, cells in columns.items() if any(cell != DASH for cell in cells)}
    verdicts = {task.verdict for task in story.tasks}
    return PageTable(
        "What became of each task" if story.run.status != "running" else "The tasks so far",
        list(shown),
        _cells(list(zip(*shown.values(), strict=True))),
        "Losses per completion token on the validation split, which steers the weights and chooses the checkpoint."
        if story.run.system == MULTITASK
        else f"{story.run.objective.key} in validation passes, which chooses the checkpoint.",
        {name: words for name, words in VERDICTS.items() if name in verdicts},
    )


def _phases(run: Run) -> list[PageTable]:
    if not run.phases:
        return []
    rows = [(name, status, _in_words(run.card["phases"][name].get("results"))) for name, status in run.phases.items()]
    caption = "The fits of the run, one after the other. What follows is of the last one that has it."
    return [PageTable("Phases", ["phase", "status", "results"], _cells(rows), caption, is_text=True)]


def _in_words(results: object) -> str:
    """Return the results of a phase, each with the mean of its parts."""
    means = {key: _mean(result.values) for key, result in results_of(results).items()}
    return ", ".join(f"{result_name(key)} {written(key, mean)}" for key, mean in means.items()) or DASH


def _tables(story: RunStory) -> list[PageTable]:
    if not story.tasks:
        return []
    words = [(task.task, in_words(task, story)) for task in story.tasks]
    columns = ["task", "its course, and the balancer's answer"]
    return [task_table(story), PageTable("Why", columns, _cells(words), is_text=True)]


def _figures(story: RunStory) -> list[PageFigure]:
    from lightning_coba.reports.run_page.figures import losses_figure, slope_figure
    from lightning_coba.simplex import figures as draw  # matplotlib takes a second

    balance, objective = story.balance, story.run.objective
    of = "Loss" if objective.key == VAL_LOSS else f"{objective.key} in validation passes, and loss"
    drawn = {
        f"{of} of each task in training steps and in validation passes; the ring marks the validation "
        f"{'minimum' if objective.better == 'min' else 'maximum'}.": (
            "losses.png",
            lambda: losses_figure(story.run.curves, story.training, objective.better),
        )
    }
    if balance is not None:
        drawn |= {
            "Losses in the balancer's records, relative to the start.": (
                "loss_ratio.png",
                lambda: draw.loss_ratio_figure(balance, story.losses),
            ),
            "Weights in force after each record.": ("weights.png", lambda: draw.weights_figure(balance)),
            "Which slopes the weights answered.": ("slopes.png", lambda: slope_figure(balance)),
        }
        if draw.has_scores(balance):
            drawn["What CoBa's weights are made of."] = ("scores.png", lambda: draw.scores_figure(balance))
    figures = (_figure(story.run, caption, *found) for caption, found in drawn.items())
    shown = {name for name, _ in drawn.values()}
    return [*(figure for figure in figures if figure is not None), *_own_figures(story.run, shown)]


def _own_figures(run: Run, shown: Collection[str]) -> list[PageFigure]:
    """Return what the system has drawn itself."""
    files = [file for fit in run.fits for file in sorted(fit.figures.glob("*.png")) if file.name not in shown]
    return [
        PageFigure(file.relative_to(run.folder).as_posix(), file.stem.replace("_", " "), file.read_bytes())
        for file in files
    ]


def _figure(run: Run, caption: str, name: str, draw: "Callable[[], Figure | None]") -> PageFigure | None:
    """Return a figure as the run has drawn it, or draw it where the records went on since."""
    fit = run.last_fit_with(lambda fit: fit.balance)
    file, records = fit.figures / name, fit.balance
    path = file.relative_to(run.folder).as_posix()
    if file.is_file() and records.is_file() and file.stat().st_mtime_ns >= records.stat().st_mtime_ns:
        return PageFigure(path, caption, file.read_bytes())
    figure = draw()
    return None if figure is None else PageFigure.of(figure, path, caption)


def _results(run: Run) -> list[PageTable]:
    if not run.results:
        return []
    key, before, after = run.primary, run.before.values, run.after.values
    ratios = {
        part: after[part] / before[part] for part in after if isfinite(before.get(part, nan)) and before[part] != 0
    }
    name = "" if key == TEST_LOSS else f"{result_name(key)} "
    columns: dict[str, tuple[str, Mapping[str, float]]] = {}
    if before:
        columns[f"{name}before"] = (key, before)
    columns[f"{name}after"] = (key, after)
    if before:
        columns["after / before"] = ("", ratios)
    columns |= {result_name(other): (other, result.values) for other, result in run.others.items()}
    parts = [task for task in run.tasks if task in after] or list(after)
    parts = list(dict.fromkeys([*parts, *(part for _, values in columns.values() for part in values)]))
    rows = [[part, *(written(of, values.get(part, nan)) for of, values in columns.values())] for part in parts]
    if len(parts) > 1 or run.system == MULTITASK:
        rows.append(["mean", *(written(of, _mean(values)) for of, values in columns.values())])
    objective = run.objective
    chosen = "mean validation loss" if objective.key == VAL_LOSS else objective.key
    begin = "Loss per completion token on" if key == TEST_LOSS and run.system == MULTITASK else "On"
    caption = f"{begin} the test split, at the checkpoint with the {superlative(objective.better)} {chosen}."
    return [PageTable("Test results", ["task", *columns], _cells(rows), caption)]


def _mean(values: Mapping[str, float]) -> float:
    """Return the mean of those that are there; NaN of none."""
    there = [value for value in values.values() if isfinite(value)]
    return fmean(there) if there else nan


def _cost(story: RunStory) -> list[PageTable]:
    run = story.run
    if not isfinite(run.seconds_per_step):
        return []
    training = run.seconds_per_step * run.steps
    whole = training + run.validation_seconds
    rows = [
        ("optimizer steps", f"{run.steps:,.0f}, {_seconds(run.seconds_per_step)} each, {_seconds(training)} in all"),
        (
            "validation passes",
            f"{_seconds(run.validation_seconds)} in all, {100 * run.validation_seconds / whole:.0f} % of the time",
        ),
    ]
    if story.balance is not None:
        by_passes = set(story.balance.steps.tolist()) <= {step for curve in run.curves.values() for step in curve}
        within = (
            "taken from the validation passes, whose time they cost"
            if by_passes and story.losses == "validation"
            else "taken in training steps, whose time above includes them"
        )
        rows.append(("the balancer's records", f"{len(story.balance.records):,}, {within}"))
    return [PageTable("Time", ["", "time"], _cells(rows), "Checkpoints and tests are not counted.", is_text=True)]


def _cells(rows: Sequence[Sequence[str]]) -> list[list[Cell]]:
    return [[Cell(text) for text in row] for row in rows]


def _number(value: float, form: str = ".3f") -> str:
    return f"{value:{form}}" if isfinite(value) else DASH


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.1f} min"


_HTML = """\
{% from "block.html" import show %}
{% include "head.html" %}
</head>
<body>
<h1>{{ title }}</h1>
<p class="grey">{{ facts }}</p>
{% for sentence in headline %}
<p{% if loop.first %} class="headline"{% endif %}>{{ sentence }}</p>
{% endfor %}
{% for note in notes %}
<p class="note"><strong>Note.</strong> {{ note }}</p>
{% endfor %}
{% for block in blocks %}
{{ show(block) }}
{% endfor %}
{% if settings %}
<h3>Settings</h3>
<details><summary>{{ settings | length }} settings, as they can be given to coba-train</summary>
<div class="wide"><table class="words"><tbody>
{% for name, value in settings %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table></div></details>
{% endif %}
<h3>Environment</h3>
<p class="grey">{{ packages | join(" · ") or "not written down" }}</p>
<p class="grey">{{ folder }}</p>
</body>
</html>
"""
