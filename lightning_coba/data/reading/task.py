"""What a task is: a name, where its splits come from, and how a row becomes what is read and what is learned."""

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from lightning_coba.data.reading.files import saved_splits
from lightning_coba.data.reading.hub import hub_id, split_names
from lightning_coba.data.reading.slug import NAME, slug
from lightning_coba.errors import UserError

SPLITS = ("train", "validation", "test")

Source = str | PathLike[str] | Iterable[str | PathLike[str]] | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    r"""One of the tasks that a model is fine-tuned on together.

    Args:
        name: letters, digits, ``_``, and behind the first of them ``.`` and ``-`` too; it becomes part of log keys,
            tables and file names.
        train: where the rows come from: the path of a JSON, JSONL, CSV, TSV or Parquet file (``.gz`` too, but for
            Parquet), a glob, a folder of such files, a folder of ``datasets``' ``save_to_disk``, a list of paths;
            ``"hf:org/name"`` or ``"hf:org/name:config"`` of the Hugging Face hub; a ``datasets`` object; or any
            iterable of dict rows, which may be a generator larger than memory.
        validation: the same; ``None`` = the split of this name where ``train`` is a ``DatasetDict`` (or its folder),
            or a data set of the hub, that has one, else a tenth of ``train`` is carved.
        test: the same.
        prompt: the column that holds the prompt, or a template with column names in braces; ``{{`` and ``}}``
            stand for braces.
        completion: the same for the text that is learned.
        where: column -> value: only the rows that have all these values are read.
        chat: whether prompt and completion are rendered with the model's chat template, as a user's and an
            assistant's turn. ``None``: rows with ``messages`` that lack a prompt or completion are, and rows whose
            prompt and completion are lists of messages; ``True``: all rows; ``False``: none.
        messages: the column that holds conversations: a list of ``{"role": ..., "content": ...}``. All
            assistant's turns are learned.
        max_rows: most rows of this task in an epoch, at least 1; ``None`` = no limit.
        repeats: how often an epoch shows each row, above 0; 0.5 shows every other row.

    Raises:
        ValueError: The name has other characters, a template does not parse, or a value is outside its domain.

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
    where: Mapping[str, Any] | None = None
    chat: bool | None = None
    messages: str = "messages"
    max_rows: int | None = None
    repeats: float = 1

    def __post_init__(self) -> None:
        for split in ("validation", "test"):
            if getattr(self, split) is None and split in _splits_within(self.train):
                object.__setattr__(self, split, self.train)
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise UserError(
                "`Task.name` may hold letters without accents, digits, '_', '.' and '-', and begins with one of the "
                f"first three, because it becomes part of log keys and file names; got {self.name!r}.",
                f"Call it {slug(str(self.name))!r}.",
            )
        for argument in ("prompt", "completion"):
            _check_text_rule(self.name, argument, getattr(self, argument))
        self._check_options()

    def _check_options(self) -> None:
        where_is_usable = self.where is None or (
            isinstance(self.where, Mapping) and self.where and all(isinstance(column, str) for column in self.where)
        )
        max_rows_is_usable = self.max_rows is None or (_is_number(self.max_rows, int) and self.max_rows >= 1)
        splits_are_usable = {
            split: isinstance(source, str | PathLike | Iterable) or (source is None and split != "train")
            for split, source in zip(SPLITS, (self.train, self.validation, self.test), strict=True)
        }
        source, file = "a path, a list of paths or an iterable of dict rows", "Give the file that holds the rows."
        for argument, usable, domain, cure in (
            *((split, usable, source, file) for split, usable in splits_are_usable.items()),
            ("where", where_is_usable, "None or a dict of column: value", "Write where={'task': 'qa'}."),
            ("chat", self.chat in (None, True, False), "True, False or None", "Choose one."),
            ("messages", isinstance(self.messages, str) and self.messages, "a column name", "Name the column."),
            ("max_rows", max_rows_is_usable, "a whole number of at least 1 or None", "Choose such a number."),
            (
                "repeats",
                _is_number(self.repeats, int | float) and isfinite(self.repeats) and self.repeats > 0,
                "a finite number above 0",
                "Use 1 to show each row once an epoch.",
            ),
        ):
            if not usable:
                got = getattr(self, argument)
                raise UserError(f"`Task.{argument}` must be {domain}; got {got!r} for task {self.name!r}.", cure)


def _splits_within(source: Any) -> Iterable[str]:
    """Return the splits that a source of several has by name."""
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, str | PathLike):
        return ()
    on_hub = hub_id(str(source))
    return split_names(on_hub) if on_hub else saved_splits(Path(source).expanduser()) or ()


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_text_rule(task: str, argument: str, rule: str) -> None:
    if not isinstance(rule, str) or not rule:
        cure = f"Name the column that holds the {argument}."
    else:
        try:
            template_columns(rule)
            return
        except ValueError as error:
            cure = f"({error}) Write '{{{{' and '}}}}' for literal braces."
    raise UserError(
        f"`Task.{argument}` must be a column name or a template such as '{{text}}\\n'; got {rule!r} for task {task!r}.",
        cure,
    )


@lru_cache
def template_columns(rule: str) -> list[tuple[str, bool]]:
    """Return the columns of a template, and whether each stands there itself (not one of its items).

    A rule without braces is the name of one column.

    Raises:
        ValueError: It is no template, or its braces hold something else.
    """
    if "{" not in rule:
        return [(rule, True)]
    fields = [field for _, field, _, _ in string.Formatter().parse(rule) if field is not None]
    if not fields or any(field == "" or field[0].isdigit() for field in fields):
        raise UserError("Braces must hold column names.")
    columns = [field.replace("[", ".").split(".")[0] for field in fields]
    return [(column, column == field) for column, field in zip(columns, fields, strict=True)]
