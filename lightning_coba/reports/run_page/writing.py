"""One page about one run: what became of the tasks, and with which settings."""

import os
from collections.abc import Iterable
from contextlib import suppress
from importlib.resources import files
from math import isfinite, nan
from pathlib import Path

import yaml

from lightning_coba.log_keys import TEST_LOSS, VAL_LOSS
from lightning_coba.reports.findings import FEWEST_TREND_RECORDS, TOLERANCE
from lightning_coba.reports.formats import DASH, as_typed, count, first_settings, number, percent, seconds
from lightning_coba.reports.page import PageBlock, PageFigure, PageSection, PageTable, PageText, render_page
from lightning_coba.reports.result_names import is_of_tasks, result_name, superlative, written
from lightning_coba.reports.run_page.story import RunStory, read_story
from lightning_coba.reports.run_page.words import headline, values_in_words
from lightning_coba.runs.card import MULTITASK, Result, mapping, results_of
from lightning_coba.runs.collection import Run
from lightning_coba.runs.files import RunFiles
from lightning_coba.runs.whole_file import write_whole
from lightning_coba.simplex.records import read_balance

#: Figures of a run by the name of their file -> what they show.
CAPTIONS = {
    "loss_ratio": "Losses in the records, relative to the start.",
    "weights": "Weights in force after each record.",
    "scores": "What CoBa's weights are made of.",
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
    write_whole(path, render_run_page(story))
    return path


def write_run_pages(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Write the page of every folder that is itself the folder of a run, and return these pages."""
    return [write_run_page(folder) for folder in folders if RunFiles(Path(folder)).card.is_file()]


def render_run_page(story: RunStory) -> str:
    """Return the page; everything that comes from the run is escaped."""
    run = story.run
    packages = [f"{name} {version}" for name, version in mapping(run.card.get("packages")).items() if version]
    environment = PageText("Environment", [" · ".join(packages) or "not written down", str(run.folder)])
    tasks = [task_table(story)] if story.tasks else []
    blocks: list[PageBlock] = [
        *_phases(story),
        *tasks,
        *_figures(story),
        *_results(run),
        *_cost(story),
        *_settings(run),
    ]
    section = PageSection("", headline(story), _facts(run), story.notes, [*blocks, environment])
    return render_page(_title(story), [section])


def _settings(run: Run) -> list[PageTable]:
    if not run.settings:
        return []
    columns = {"setting": [*run.settings], "value": [as_typed(value) for value in run.settings.values()]}
    folded = f"{len(run.settings)} settings, as they can be given to coba-train"
    return [PageTable.of("Settings", columns, is_text=True, folded=folded)]


def _title(story: RunStory) -> str:
    """Return the run's name; the runs of a sweep share one."""
    run, folder = story.run, story.run.folder.resolve().name
    name = str(run.card.get("name") or folder)
    return name if name == folder else f"{name}: {run.method}" + ("" if run.seed is None else f", seed {run.seed}")


def _facts(run: Run) -> str:
    facts = [
        f"suite {run.suite}",
        *([f"system {run.system}"] if run.system != MULTITASK else []),
        f"method {run.method}",
        *([f"seed {run.seed}"] if run.seed is not None else []),
        *([count(len(run.tasks), "task")] if run.card.get("tasks") else []),
        f"status {run.status}",
        *first_settings(run.settings),
    ]
    return " · ".join(facts)


def task_table(story: RunStory) -> PageTable:
    """Return one row per task: what it came to, in numbers."""
    tasks = story.tasks
    records = {
        column: [story.recorded(column, one.task) for one in tasks] for column in ("slope", "rcs", "acs", "weight")
    }
    columns = {
        "task": [one.task for one in tasks],
        "came to": [story.verdicts[one.task] for one in tasks],
        "at the start": [number(one.first) for one in tasks],
        "lowest": [number(one.lowest) for one in tasks],
        "at step": [str(one.best_step or DASH) for one in tasks],
        "at the end": [number(one.last) for one in tasks],
        "change": [percent(one.last_ratio - 1) for one in tasks],
        "above lowest": [percent(one.rise) for one in tasks],
        "slope": [number(of[-1], "+.4f") if of.size else DASH for of in records["slope"]],
        "RCS": [number(of[-1], ".2f") if of.size else DASH for of in records["rcs"]],
        "ACS": [number(of[-1], ".2f") if of.size else DASH for of in records["acs"]],
        "last weight": [f"{len(tasks) * of[-1]:.2f}x" if of.size else DASH for of in records["weight"]],
    }
    columns = {name: cells for name, cells in columns.items() if {*cells} != {DASH}}
    meanings = yaml.safe_load(files(__package__).joinpath("task_columns.yaml").read_text(encoding="utf-8"))
    shown = {*columns, *story.verdicts.values()}
    return PageTable.of(
        "What became of each task" if story.run.status != "running" else "The tasks so far",
        columns,
        "Losses per completion token on the validation split, which steers the weights and chooses the checkpoint."
        if story.run.system == MULTITASK
        else f"{story.run.objective.key} in validation passes, which chooses the checkpoint.",
        reading={
            name: words.format(tolerance=TOLERANCE, fewest=FEWEST_TREND_RECORDS)
            for name, words in meanings.items()
            if name in shown
        },
    )


def _phases(story: RunStory) -> list[PageTable]:
    run = story.run
    if not run.phases:
        return []
    results = [results_of(mapping(run.card["phases"][name]).get("results")) for name in run.phases]
    columns = {
        "phase": [*run.phases],
        "status": [*run.phases.values()],
        "steps": [number(steps, ",.0f") for steps in story.steps.values()],
        "results": [
            ", ".join(f"{result_name(key)} {values_in_words(run, key, of)}" for key, of in found.items()) or DASH
            for found in results
        ],
    }
    caption = "The fits of the run, one after the other. What follows is of the last one that has it."
    return [PageTable.of("Phases", columns, caption, is_text=True)]


def _figures(story: RunStory) -> list[PageFigure]:
    from lightning_coba.reports.run_page.run_figures import losses_figure  # matplotlib takes a second

    run, objective = story.run, story.run.objective
    what = "Loss of each task" if objective.key == VAL_LOSS else f"{objective.key} in validation passes, and loss"
    extreme = "minimum" if objective.better == "min" else "maximum"
    caption = f"{what} in training steps and in validation passes; the ring marks the validation {extreme}."
    losses = losses_figure(run.curves, story.training, objective)
    drawn = [] if losses is None else [PageFigure.of(losses, "losses.png", caption)]
    return drawn + [figure for fit in run.fits for figure in _figures_of(fit, story)]


def _figures_of(fit: RunFiles, story: RunStory) -> list[PageFigure]:
    """Return what a fit has drawn of its records, drawn again where these went on since, and what its system drew."""
    for records in fit.records():
        folder = fit.figures if records == fit.balance else fit.figures / records.stem
        weights = folder / "weights.png"
        if not weights.is_file() or weights.stat().st_mtime_ns < records.stat().st_mtime_ns:
            from lightning_coba.simplex.figures import write_figures  # matplotlib takes a second

            with suppress(ValueError):  # half-written, or none yet
                write_figures(read_balance(records), folder, story.losses)
    found = []
    for file in sorted(fit.figures.rglob("*.png")):
        path = file.relative_to(story.run.folder)
        whose = [part for part in path.parent.parts if part != fit.figures.name]  # a phase, another set of shares
        caption = ": ".join([*whose, CAPTIONS.get(file.stem, file.stem.replace("_", " "))])
        found.append(PageFigure(path.as_posix(), caption, file.read_bytes()))
    return found


def _results(run: Run) -> list[PageTable]:
    if not run.results:
        return []
    key, before, after = run.primary, run.before, run.after
    ratios = {
        part: after.values[part] / start for part, start in before.values.items() if start and part in after.values
    }
    name = "" if key == TEST_LOSS else f"{result_name(key)} "
    columns = {f"{name}after": (key, after)}
    if before.values:
        columns = {f"{name}before": (key, before), **columns, "after / before": ("", Result(ratios))}
    columns |= {result_name(other): (other, result) for other, result in run.others.items()}
    known = {part: None for _, result in columns.values() for part in result.values}
    parts = [part for part in dict.fromkeys([*run.tasks, *known]) if part in known]
    has_mean = any(is_of_tasks(run, result) for _, result in columns.values())
    cells = {"task": [*parts, *["mean"] * has_mean]}
    for column, (of, result) in columns.items():
        mean = values_in_words(run, of, result) if is_of_tasks(run, result) else DASH
        cells[column] = [*(written(of, result.values.get(part, nan)) for part in parts), *[mean] * has_mean]
    objective = run.objective
    chosen = "mean validation loss" if objective.key == VAL_LOSS else objective.key
    begin = "Loss per completion token on" if key == TEST_LOSS and run.system == MULTITASK else "On"
    caption = f"{begin} the test split, at the checkpoint with the {superlative(objective.better)} {chosen}."
    return [PageTable.of("Test results", cells, caption)]


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
    if story.balance is not None and run.fits[-1].balance.is_file():  # of the fit whose time this is
        by_passes = set(story.balance.steps.tolist()) <= {step for curve in run.curves.values() for step in curve}
        within = (
            "taken from the validation passes, whose time they cost"
            if by_passes and story.losses == "validation"
            else "taken in training steps, whose time above includes them"
        )
        rows["records of the weights"] = f"{len(story.balance.records):,}, {within}"
    columns = {"": [*rows], "time": [*rows.values()]}
    title = f"Time of {[*run.phases][-1]}" if run.phases else "Time"
    return [PageTable.of(title, columns, "Checkpoints and tests are not counted.", is_text=True)]
