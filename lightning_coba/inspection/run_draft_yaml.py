"""Write the settings of a first run as a Hydra experiment that a person can read and edit."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.inspection.run_draft import RunDraft, Setting

_WIDTH = 118


def draft_yaml(draft: RunDraft, root: str, name: str, config_dir: str, model: str | None) -> str:
    """Return the file's text.

    Args:
        draft: of `draft_run`.
        root: where the data lies, as it was typed.
        name: of the experiment.
        config_dir: what ``--config-dir`` of coba-train must be.
        model: hub id, folder or file of the model; ``None`` = the default one.
    """
    sizes = ", ".join(f"{task} {rows:,}" for task, rows in draft.sizes.items())
    lines = [
        "# @package _global_",
        f"# coba-train --config-dir {config_dir} experiment={name}",
        *_comment(f"Drafted by coba-data init from {root}. Edit it; what is not named here is as coba-train has it."),
        *_comment(f"Training rows: {sizes}."),
        "defaults:",
        "  - override /data: files",
        f"  - override /model: {'smollm2' if model is None else 'causal_lm'}",
        "",
        f"suite: {_scalar(name)} # what the tasks are called together, in the names of runs",
        "",
    ]
    if model is not None:
        lines += ["model:", f"  model: {_scalar(model)}", ""]
    lines += ["data:", *_source_lines(draft, root), *_setting_lines(draft.data), ""]
    lines += ["trainer:", *_setting_lines(draft.trainer)]
    return "\n".join(lines) + "\n"


def write_draft(path: str | PathLike[str], text: str, force: bool = False) -> None:
    """Write the file.

    Args:
        path: where to; in a folder ``experiment``, where Hydra looks for the group of this name.
        text: what.
        force: whether a file of that name is replaced.

    Raises:
        ValueError: The folder has another name.
        FileExistsError: There is such a file.
    """
    place = Path(path)
    if place.resolve().parent.name != "experiment" or place.suffix != ".yaml":
        raise ValueError(
            f"`write_draft.path` must be a .yaml file in a folder named 'experiment', where coba-train --config-dir "
            f"looks for it; got {str(path)!r}. Write {str(place.parent / 'experiment' / (place.stem + '.yaml'))!r}."
        )
    if place.exists() and not force:
        raise FileExistsError(f"{place} exists, and may have been edited. Add --force to replace it, or give --out.")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")


def _source_lines(draft: RunDraft, root: str) -> list[str]:
    common = draft.common_rules
    if common is not None:
        why = next(iter(draft.columns.values())).why
        return [f"  root: {_scalar(root)} # seen from where coba-train is started", *_rule_lines("  ", common, why)]
    lines = [
        "  root: null",
        "  tasks: # their columns differ, so each is named; paths are seen from where it is started",
    ]
    for task in draft.tasks:
        lines += ["    - _target_: lightning_coba.Task", f"      name: {_scalar(task.name)}"]
        lines += [f"      {key}: {_scalar(value)}" for key, value in _task_settings(task).items()]
        columns = draft.columns[task.name]
        lines += _rule_lines("      ", columns.rules, columns.why)
    return lines


def _rule_lines(indent: str, rules: Mapping[str, str], why: str) -> list[str]:
    """Say why once, at the first of the rules."""
    lines = [f"{indent}{name}: {_scalar(rule)}" for name, rule in rules.items()]
    return [f"{lines[0]} # {why}", *lines[1:]] if lines else []


def _task_settings(task: Task) -> dict[str, Any]:
    settings = {split: _paths(getattr(task, split)) for split in SPLITS if getattr(task, split) is not None}
    if task.where:
        settings["where"] = dict(task.where)
    return settings


def _paths(source: Any) -> Any:
    return [str(path) for path in source] if isinstance(source, list) else str(source)


def _setting_lines(settings: Mapping[str, Setting]) -> list[str]:
    return [f"  {name}: {_scalar(setting.value)} # {setting.why}" for name, setting in settings.items()]


def _comment(text: str) -> list[str]:
    words: Sequence[str] = text.split()
    lines = ["#"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > _WIDTH:
            lines.append("#")
        lines[-1] += f" {word}"
    return lines


def _scalar(value: Any) -> str:
    r"""Return a value as YAML on one line.

    Example:
        >>> _scalar("answer"), _scalar("{question}\n"), _scalar(None)
        ('answer', '"{question}\\n"', 'null')
    """
    plain = isinstance(value, str) and value.replace("_", "").replace("-", "").isalnum() and value[0].isalpha()
    reserved = str(value).lower() in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    return value if plain and not reserved else json.dumps(value, ensure_ascii=False)
