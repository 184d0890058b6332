"""Run folders as `coba-train` leaves them, with losses that the test chooses."""

import json

import pytest
import yaml

from lightning_coba.loggers import MetricsCSV

BALANCERS = {"CoBa": {"_target_": "lightning_coba.ConvergenceBalancer", "window_records": 5, "temperature": 5.0}}


def settings_of(method, seed, tasks, balancer=None, **overrides):
    """Return a resolved configuration; `overrides` are whole groups, merged into it."""
    plain = {"_target_": "lightning_coba.TaskBalancing", "balancer": {"_target_": f"lightning_coba.balancers.{method}"}}
    settings = {
        "data": {"_target_": "lightning_coba.MultitaskDataModule", "root": "suite", "max_length": 64, "seed": seed},
        "system": {"_target_": "lightning_coba.MultitaskLM", "seed": seed},
        "system_name": "multitask",
        "model": {"_target_": "lightning_coba.models.LanguageModel", "model": "tiny"},
        "balancer": BALANCERS.get(method, plain) | (balancer or {}),
        "optimizer": {"lr": 0.001},
        "trainer": {"max_steps": 40, "default_root_dir": f"{method}{seed}{'_'.join(tasks)}"},
        "name": f"{method}{seed}",
        "seed": seed,
    }
    for group, values in overrides.items():
        settings[group] = settings.get(group, {}) | values
    return settings


def result(values, better="min"):
    """Return a result as a card holds it."""
    return {"better": better, "values": values}


def write_run(
    folder,
    method,
    seed,
    after,
    *,
    before=None,
    others=None,
    seconds=None,
    card=None,
    balancer=None,
    best=None,
    **groups,
):
    """Write a run folder.

    `after` is task -> test loss; `before` the same, twice as much unless given; `others` key -> task -> another result,
    of which more is better; `best` task -> step of the lowest validation loss, of 4 passes every 10 steps; `card`
    entries of run.json; `groups` overrides of the configuration.
    """
    tasks = list(after)
    folder.mkdir(parents=True)
    entries = {
        "format_version": 2, "status": "finished", "system": "multitask", "name": f"{method}{seed}", "tasks": tasks,
        "method": method, "seed": seed, "suite": "suite",
        "results_before": {"test_loss": result(before or {task: 2 * loss for task, loss in after.items()})},
        "results": {"test_loss": result(after)} | {key: result(of, "max") for key, of in (others or {}).items()},
        "objective": {"key": "val_loss", "better": "min", "value": 1.0},
    }  # fmt: skip
    if seconds is not None:
        entries["timing"] = {"seconds_per_step": seconds, "steps": 40, "validation_seconds": 1.5}
    (folder / "run.json").write_text(json.dumps(entries | (card or {})))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings_of(method, seed, tasks, balancer, **groups)))
    logger = MetricsCSV(folder)
    for step in range(40):
        logger.log_metrics({"train_loss": 1.0}, step)
        if step % 10 == 9:
            passes = {f"val_loss/{t}": 1 + abs(step + 1 - (best or {}).get(t, 40)) / 100 for t in tasks}
            logger.log_metrics(passes, step)
    logger.save()
    return folder


@pytest.fixture(scope="session", name="write_run_at")
def write_run_at_fixture():
    """Write a run to a folder."""
    return write_run


@pytest.fixture(name="write_run")
def write_run_fixture(tmp_path):
    """Write a run to a folder below `tmp_path / "runs"`."""
    numbers = iter(range(1000))
    return lambda *arguments, **options: write_run(tmp_path / "runs" / f"{next(numbers):03}", *arguments, **options)
