"""What a task is: a name, where its splits come from, and how a row becomes prompt and completion."""

import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")

Source = str | PathLike[str] | Iterable[str | PathLike[str]] | Iterable[Mapping[str, Any]]

_NAME = re.compile(r"[A-Za-z0-9_.-]+")

_LAYOUT = (
    "The expected layout is\n  {root}/<task>/train.jsonl\n  {root}/<task>/validation.jsonl   (optional)\n"
    '  {root}/<task>/test.jsonl         (optional)\nwith one {{"prompt": ..., "completion": ...}} a line.'
)


@dataclass(frozen=True)
class Task:
    r"""One of the tasks that a model is fine-tuned on together.

    Args:
        name: letters, digits, ``_``, ``.`` and ``-``; it becomes part of log keys and
            tables.
        train: where the rows come from: a path to a JSONL file, a glob, a folder (all its ``*.jsonl``), a
            list of those, or any Python iterable of dict rows.
        validation: the same; ``None`` carves a tenth of ``train``.
        test: the same; ``None`` carves a tenth of ``train``.
        prompt: the column that holds the prompt, or a template with column names in braces; ``{{`` and ``}}``
            stand for braces.
        completion: the same for the text that is learned.

    Raises:
        ValueError: The name has other characters, or a template does not parse.

    Example:
        >>> rows = [{"en": "yes", "de": "ja"}]
        >>> Task("german", rows, prompt="Translate to German: {en}\n", completion="de").name
        'german'
    """

    name: str
    train: Source
    validation: Source | None = None
    test: Source | None = None
    prompt: str = "prompt"
    completion: str = "completion"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                "`Task.name` must match [A-Za-z0-9_.-]+, because it becomes part of log keys and tables; "
                f"got {self.name!r}. Replace the other characters, for example by '_'."
            )
        for argument in ("prompt", "completion"):
            _check_text_rule(self.name, argument, getattr(self, argument))
        for split in SPLITS:
            source = getattr(self, split)
            if not (isinstance(source, str | PathLike | Iterable) or (source is None and split != "train")):
                raise ValueError(
                    f"`Task.{split}` must be a path, a list of paths or an iterable of dict rows; "
                    f"got {source!r} for task {self.name!r}. Give the file that holds the rows."
                )


def _check_text_rule(task: str, argument: str, rule: str) -> None:
    if not isinstance(rule, str) or not rule:
        raise ValueError(
            f"`Task.{argument}` must be a column name or a template such as '{{text}}\\n'; got {rule!r} "
            f"for task {task!r}. Name the column that holds the {argument}."
        )
    if "{" not in rule:
        return
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(rule) if field is not None]
    except ValueError as error:
        fields, reason = [], str(error)
    else:
        named = fields and not any(field == "" or field[0].isdigit() for field in fields)
        reason = "" if named else "braces must hold column names"
    if reason:
        raise ValueError(
            f"`Task.{argument}` must be a column name or a template such as '{{text}}\\n'; got {rule!r} "
            f"for task {task!r} ({reason}). Write '{{{{' and '}}}}' for literal braces."
        )


def tasks_in_folder(root: str | PathLike[str]) -> list[Task]:
    """Find the tasks of a folder: every sub-folder that has a ``train.jsonl``, sorted by name.

    Args:
        root: folder with one sub-folder per task; ``validation.jsonl`` and ``test.jsonl`` are optional.

    Returns:
        One task per sub-folder, named after it.

    Raises:
        FileNotFoundError: The folder is missing or holds no task; the message shows the expected layout.
    """
    folder = Path(root).expanduser()
    layout = _LAYOUT.format(root=folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"`tasks_in_folder.root` must be a folder; got {str(folder)!r}. {layout}")
    homes = sorted(path.parent for path in folder.glob("*/train.jsonl") if path.is_file())
    if not homes:
        raise FileNotFoundError(f"No task was found in {str(folder)!r}. {layout}")
    return [Task(home.name, **_split_files(home)) for home in homes]


def _split_files(home: Path) -> dict[str, Any]:
    files = {split: home / f"{split}.jsonl" for split in SPLITS}
    return {split: file for split, file in files.items() if file.is_file()}
