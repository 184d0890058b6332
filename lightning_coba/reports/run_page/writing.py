"""One page about one run: what became of the tasks, why, and with which settings."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from lightning_coba.log_keys import TEST_LOSS, VAL_LOSS
from lightning_coba.reports.formats import DASH, count, number, percent, seconds
from lightning_coba.reports.page import PageBlock, PageFigure, PageSection, PageTable, PageText, render_page
from lightning_coba.reports.result_names import result_name, superlative, written
from lightning_coba.reports.run_page.story import VERDICTS, RunStory, read_story
from lightning_coba.reports.run_page.words import headline, in_words
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
    "tokens per row at most": "data.max_length",
}


def write_run_page(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a run folder: one file that needs no other and no network.

    Use it on a finished run, on one still under way, or on one that failed; ``coba-train`` does so at the end, and
    ``coba-report runs/<name>`` at any time. The page says in words which tasks improved, overfitted or were left behind
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
    run = story.run
    packages = [f"{name} {version}" for name, version in (run.card.get("packages") or {}).items() if version]
    environment = PageText("Environment", [" · ".join(packages) or "not written down", str(run.folder)])
    tables = _phases(run) + _tables(story)
    blocks: list[PageBlock] = [*tables, *_figures(story), *_results(run), *_cost(story), *_settings(run), environment]
    section = PageSection("", headline(story), _facts(run), story.notes, blocks)
    return render_page(_title(story), [section])


def _settings(run: Run) -> list[PageTable]:
    settings = run.settings or {}
    if not settings:
        return []
    columns = {"setting": [*settings], "value": [_as_yaml(value) for value in settings.values()]}
    folded = f"{len(settings)} settings, as they can be given to coba-train"
    return [PageTable.of("Settings", columns, is_text=True, folded=folded)]


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
    """Return one row per task: what it came to, in numbers."""
    tasks = story.tasks
    slopes, weights = ([story.of_balancer(column, one.task) for one in tasks] for column in ("slope", "weight"))
    columns = {
        "task": [one.task for one in tasks],
        "came to": [story.verdicts[one.task] for one in tasks],
        "at the start": [number(one.first) for one in tasks],
        "lowest": [number(one.lowest) for one in tasks],
        "at step": [str(one.best_step or DASH) for one in tasks],
        "at the end": [number(one.last) for one in tasks],
        "change": [percent(one.last_ratio - 1) for one in tasks],
        "above lowest": [percent(one.rise) for one in tasks],
        "slope": [number(of[-1], "+.4f") if of.size else DASH for of in slopes],
        "first weight": [number(of[0]) if of.size else DASH for of in weights],
        "last weight": [number(of[-1]) if of.size else DASH for of in weights],
    }
    return PageTable.of(
        "What became of each task" if story.run.status != "running" else "The tasks so far",
        {name: cells for name, cells in columns.items() if {*cells} != {DASH}},
        "Losses per completion token on the validation split, which steers the weights and chooses the checkpoint."
        if story.run.system == MULTITASK
        else f"{story.run.objective.key} in validation passes, which chooses the checkpoint.",
        reading={name: words for name, words in VERDICTS.items() if name in story.verdicts.values()},
    )


def _phases(run: Run) -> list[PageTable]:
    if not run.phases:
        return []
    results = [_in_words(run.card["phases"][name].get("results")) for name in run.phases]
    columns = {"phase": [*run.phases], "status": [*run.phases.values()], "results": results}
    caption = "The fits of the run, one after the other. What follows is of the last one that has it."
    return [PageTable.of("Phases", columns, caption, is_text=True)]


def _in_words(results: object) -> str:
    """Return the results of a phase, each with the mean of its parts."""
    means = {key: _mean(result.values) for key, result in results_of(results).items()}
    return ", ".join(f"{result_name(key)} {written(key, mean)}" for key, mean in means.items()) or DASH


def _tables(story: RunStory) -> list[PageTable]:
    if not story.tasks:
        return []
    words = [in_words(task, story) for task in story.tasks]
    columns = {"task": [task.task for task in story.tasks], "its course, and the balancer's answer": words}
    return [task_table(story), PageTable.of("Why", columns, is_text=True)]


def _figures(story: RunStory) -> list[PageFigure]:
    from lightning_coba.reports.run_page.run_figures import losses_figure, slope_figure
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
    return [PageTable.of("Test results", dict(zip(["task", *columns], zip(*rows, strict=True), strict=True)), caption)]


def _mean(values: Mapping[str, float]) -> float:
    """Return the mean of those that are there; NaN of none."""
    there = [value for value in values.values() if isfinite(value)]
    return fmean(there) if there else nan


def _cost(story: RunStory) -> list[PageTable]:
    run = story.run
    if not isfinite(run.seconds_per_step):
        return []
    training = run.seconds_per_step * run.steps
    share = 100 * run.validation_seconds / (training + run.validation_seconds)
    each = f"{run.steps:,.0f}, {seconds(run.seconds_per_step)} each, {seconds(training)} in all"
    rows = {
        "optimizer steps": each,
        "validation passes": f"{seconds(run.validation_seconds)} in all, {share:.0f} % of the time",
    }
    if story.balance is not None:
        by_passes = set(story.balance.steps.tolist()) <= {step for curve in run.curves.values() for step in curve}
        within = (
            "taken from the validation passes, whose time they cost"
            if by_passes and story.losses == "validation"
            else "taken in training steps, whose time above includes them"
        )
        rows["the balancer's records"] = f"{len(story.balance.records):,}, {within}"
    columns = {"": [*rows], "time": [*rows.values()]}
    return [PageTable.of("Time", columns, "Checkpoints and tests are not counted.", is_text=True)]
