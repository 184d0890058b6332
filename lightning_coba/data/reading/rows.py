"""From a record's columns to what a model is trained on: a prompt and a completion, or a conversation."""

import json
import struct
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from lightning_coba.data.reading.chat import checked_messages
from lightning_coba.data.reading.formats import Fields
from lightning_coba.data.reading.task import Task, template_columns
from lightning_coba.errors import UserError
from lightning_coba.user_files import reason


class Row(NamedTuple):
    """One example.

    Attributes:
        prompt: text that is read; may be empty. Of a conversation, all before the last answer, without roles.
        completion: text that is learned; never blank. Of a conversation, the last answer.
        messages: the conversation as JSON, where the chat template is to render the row.
    """

    prompt: str
    completion: str
    messages: str | None = None


def row_of(task: Task, fields: Fields) -> Row:
    """Make a row of a record.

    Args:
        task: whose rules to follow.
        fields: column -> value.

    Raises:
        ValueError: A column is missing, a prompt or completion is not a string, a completion is empty, or a
            conversation is not usable.
    """
    conversation = _conversation(task, fields)
    if conversation is None:
        return _plain_row(task, fields)
    *context, answer = conversation
    messages = json.dumps(conversation, ensure_ascii=False, default=str)
    _check_is_text(messages, "conversation")
    return Row("\n".join(message["content"] for message in context), answer["content"], messages)


def matches(where: Mapping[str, Any] | None, fields: Fields) -> bool:
    """Whether a record has all the values that `Task.where` asks for."""
    return where is None or all(fields.get(column) == value for column, value in where.items())


def normalised(prompt: str) -> str:
    r"""Return the prompt as it is compared with others: white space collapsed, case ignored.

    Example:
        >>> normalised("  Hello\n World ")
        'hello world'
    """
    return " ".join(prompt.split()).casefold()


def digest(row: Row) -> tuple[int, int]:
    """Return two 64-bit numbers that are equal for equal prompts: one to tell and carve them by, an independent order.

    Rows without a prompt are told apart by their completions.
    """
    text = normalised(row.prompt) or normalised(row.completion)
    return struct.unpack(">QQ", blake2b(text.encode(), digest_size=16, person=b"carve").digest())  # type: ignore[return-value]


def _conversation(task: Task, fields: Fields) -> list[dict[str, Any]] | None:
    if task.chat is False:
        return None
    given = fields.get(task.messages)
    plain = has_columns(task.prompt, fields) and has_columns(task.completion, fields)
    if given is not None and not plain:
        return checked_messages(given, task.messages)
    prompt, completion = fields.get(task.prompt), fields.get(task.completion)
    if isinstance(prompt, list | tuple) and isinstance(completion, list | tuple):
        return checked_messages([*prompt, *completion], f"{task.prompt} + {task.completion}")
    if not task.chat:
        return None
    row = _plain_row(task, fields)
    return [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.completion}]


def has_columns(rule: str, fields: Fields) -> bool:
    """Whether a record has the column, or all columns of the template, and something in them."""
    # A table gives every row every column, with None where the row has nothing.
    return all(fields.get(column) is not None for column, _ in template_columns(rule))


def _plain_row(task: Task, fields: Fields) -> Row:
    completion = _text(task, "completion", fields)
    if not completion.strip():
        raise UserError("the completion is empty.", "Fill it in, or delete the row.")
    return Row(_text(task, "prompt", fields), completion)


def _text(task: Task, argument: str, fields: Fields) -> str:
    rule = getattr(task, argument)
    is_template = "{" in rule
    for column, whole in template_columns(rule):
        _check_column(task, argument, column, fields)
        value = fields[column]
        # Formatted, None would silently train the model to write "None".
        if whole and not isinstance(value, str | int | float if is_template else str):
            where = (
                f"{argument} template) must be a string or a number" if is_template else f"{argument}) must be a string"
            )
            cure = "Fill it in, or delete the row."
            if not is_template and value is not None:
                cure = f"Write a string, or set {argument}='{{{rule}}}' in Task {task.name!r} to have it formatted."
            raise UserError(f"column {column!r} ({where}; got {type(value).__name__}.", cure)
    text = _formatted(rule, argument, fields) if is_template else fields[rule]
    _check_is_text(text, argument)
    return text


def _formatted(rule: str, argument: str, fields: Fields) -> str:
    try:
        return rule.format_map(fields)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"the {argument} template {rule!r} does not fit the row ({reason(error)}).",
            "Correct the template, or the row.",
        ) from None


def _check_is_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"the {what} holds half of a surrogate pair, which is not text.", "Repair the row.") from None


def _check_column(task: Task, argument: str, column: str, fields: Fields) -> None:
    if column not in fields:
        lists = [name for name, value in fields.items() if isinstance(value, list)]
        chat = f" If {lists[0]!r} holds conversations, type data.messages={lists[0]}." if lists else ""
        raise UserError(
            f"there is no column {column!r}, which Task {task.name!r} uses as {argument}.",
            f"The columns are {', '.join(map(repr, fields)) or 'none'}. Name the one that is "
            f"meant: data.{argument}=NAME, or {argument} of the Task.{chat}",
        )
