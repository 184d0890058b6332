"""Write the settings of a first run as a Hydra experiment that a person can read and edit."""

import json
import textwrap
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from lightning_coba.data.reading.task import SPLITS, Task
from lightning_coba.inspection.column_guess import Columns
from lightning_coba.inspection.run_draft import RunDraft, Setting


def draft_yaml(draft: RunDraft, root: str, name: str, config_dir: str, model: str | None) -> str:
    """Return the file's text.

    Args:
        draft: The settings; see `draft_run`.
        root: Where the data lies, as it was typed.
        name: Name of the experiment.
        config_dir: What ``--config-dir`` of coba-train must be.
        model: Hub id, folder or file of the model; ``None`` = the default one.
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
        *_lines("", {"suite": Setting(name, "what the tasks are called together, in the names of runs")}),
        "",
    ]
    if model is not None:
        lines += ["model:", *_lines("  ", {"model": Setting(model)}), ""]
    lines += ["data:", *_source_lines(draft, root), *_lines("  ", draft.data), ""]
    lines += ["trainer:", *_lines("  ", draft.trainer)]
    return "\n".join(lines) + "\n"


def write_draft(path: str | PathLike[str], text: str, force: bool = False) -> None:
    """Write the file.

    Args:
        path: Where to; in a folder ``experiment``, where Hydra looks for the group of this name.
        text: What `draft_yaml` returned.
        force: Whether a file of that name is replaced.

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
    if draft.common_rules is not None:
        settings = {"root": Setting(root, "seen from where coba-train is started")}
        return _lines("  ", settings | _rules(next(iter(draft.columns.values()))))
    why = "their columns differ, so each is named; paths are seen from where it is started"
    lines = ["  root: null", f"  tasks: # {why}"]
    for task in draft.tasks:
        lines += ["    - _target_: lightning_coba.Task"]
        lines += _lines("      ", _source(task) | _rules(draft.columns[task.name]))
    return lines


def _source(task: Task) -> dict[str, Setting]:
    settings = {"name": Setting(task.name)}
    for split in SPLITS:
        source: Any = getattr(task, split)
        if source is not None:
            settings[split] = Setting([str(path) for path in source] if isinstance(source, list) else str(source))
    return settings | ({"where": Setting(dict(task.where))} if task.where else {})


def _rules(columns: Columns) -> dict[str, Setting]:
    """Say why once, at the first of the rules."""
    return {name: Setting(rule, columns.why * (not k)) for k, (name, rule) in enumerate(columns.rules.items())}


def _lines(indent: str, settings: Mapping[str, Setting]) -> list[str]:
    return [
        f"{indent}{name}: {_scalar(value)}" + (f" # {why}" if why else "") for name, (value, why) in settings.items()
    ]


def _comment(text: str) -> list[str]:
    marks = {"initial_indent": "# ", "subsequent_indent": "# "}
    return textwrap.wrap(text, 118, **marks, break_long_words=False, break_on_hyphens=False)  # type: ignore[arg-type]


def _scalar(value: Any) -> str:
    r"""Return a value as YAML on one line.

    Example:
        >>> _scalar("answer"), _scalar("{question}\n"), _scalar(None)
        ('answer', '"{question}\\n"', 'null')
    """
    plain = isinstance(value, str) and value.replace("_", "").replace("-", "").isalnum() and value[0].isalpha()
    reserved = str(value).lower() in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    return value if plain and not reserved else json.dumps(value, ensure_ascii=False)
