"""Conversations as text or tokens of which each piece is either read or learned: by the model's own template."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning_coba.errors import UserError
from lightning_coba.user_files import parse_json, reason

Message = dict[str, Any]

#: Roles that templates know by these names. Another role must be named in the template itself.
_ROLES = {"system", "developer", "user", "assistant", "tool", "function", "ipython", "observation"}
#: ShareGPT's names for roles -> ours.
_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Turns(NamedTuple):
    """A conversation as the model sees it.

    Attributes:
        pieces: (text or token ids, whether it is learned), in order; the last piece is learned.
        last_only: whether only the last answer is learned, because the template renders earlier ones differently
            once the conversation goes on.
    """

    pieces: list[tuple[str | list[int], bool]]
    last_only: bool = False


def checked_messages(value: Any, column: str) -> list[Message]:
    """Return a conversation as plain dicts up to its last answer; what follows it could teach nothing.

    Args:
        value: a list of messages with ``role`` and ``content`` (or ShareGPT's ``from`` and ``value``), or the JSON
            text of one.
        column: where it was found, for errors.

    Raises:
        ValueError: It is no list of messages with role and content, or nobody answers.
    """
    if isinstance(value, str):
        cure = 'Write [{"role": "user", "content": ...}, ...].'
        value = parse_json(value, "", f"column {column!r}", cure)
    if not isinstance(value, Sequence) or not value:
        got = type(value).__name__ if value else "an empty one"
        raise UserError(
            f"column {column!r} must be a list of messages; got {got}.",
            'Write [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}].',
        )
    messages = [_checked_message(message, number, column) for number, message in enumerate(value)]
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise UserError(
            f"there is no message of the role 'assistant' in column {column!r}, so nothing could be learned.",
            "Add the answer, or delete the row.",
        )
    if not messages[answers[-1]]["content"].strip():
        raise UserError("the last answer is empty.", "Fill it in, or delete the row.")
    return messages[: answers[-1] + 1]


def _checked_message(message: Any, number: int, column: str) -> Message:
    if isinstance(message, Mapping) and isinstance(message.get("from"), str) and "role" not in message:
        given = {key: value for key, value in message.items() if key not in ("from", "value")}
        role = _SHAREGPT_ROLES.get(message["from"], message["from"])
        message = {"role": role, "content": message.get("value"), **given}
    usable = isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
    if not usable:
        got = type(message).__name__
        if isinstance(message, Mapping):
            got = ", ".join(f"{key!r} ({type(value).__name__})" for key, value in message.items())
        raise UserError(
            f"message {number} of column {column!r} must have the strings 'role' and 'content' (or ShareGPT's 'from' "
            f"and 'value'); got {got}.",
            "Write both as strings.",
        )
    # A Parquet file gives every message every key, with None where there is none.
    return {key: value for key, value in message.items() if value is not None}


class ChatTemplate:
    """Render conversations with a tokenizer's chat template, and tell what of them is learned.

    Where the template marks its answers with a generation tag, these marks count. Elsewhere an answer is what the
    template adds to the conversation before it, with the generation prompt: that must be a prefix of the whole.

    Args:
        tokenizer: a Hugging Face tokenizer; one without a template is an error with the first conversation.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        self.text = template
        # Only tokenizers in Rust know which characters a token covers.
        self.marks_answers = tokenizer.is_fast and bool(_GENERATION_TAG.search(template))

    def turns(self, messages: list[Message]) -> Turns:
        """Take a conversation apart.

        Args:
            messages: of which the last is an answer; see `checked_messages`.

        Raises:
            ValueError: There is no template, it refuses the conversation, or it does not tell what is learned.
        """
        if not self.tokenizer.chat_template:
            raise UserError(
                "a conversation needs a chat template, and the tokenizer has none.",
                "Take the tokenizer of an instruct model, set tokenizer.chat_template, or write prompt and completion "
                "(Task.chat=False).",
            )
        self._check_roles(messages)
        try:
            return self._marked(messages) if self.marks_answers else self._by_prefix(messages)
        except Exception as error:  # templates raise whatever they like
            raise UserError(
                f"the chat template does not take this conversation ({reason(error)}).",
                "Correct its roles and their order, or the template.",
            ) from error

    def _check_roles(self, messages: list[Message]) -> None:
        """Refuse a role that is neither usual nor in the template: many templates write down whatever they get."""
        for number, message in enumerate(messages):
            role = message["role"]
            if role not in _ROLES and role not in self.text:
                meant = f" {role!r} is {_SHAREGPT_ROLES[role]!r} here." if role in _SHAREGPT_ROLES else ""
                raise UserError(
                    f"message {number} has the role {role!r}, which the chat template does not know.",
                    f"Write one of {', '.join(sorted(_ROLES))}.{meant}",
                )

    def _marked(self, messages: list[Message]) -> Turns:
        encoded = self.tokenizer.apply_chat_template(
            messages,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
        )
        marked = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        pieces: list[tuple[str | list[int], bool]] = [
            ([token for token, _ in run], bool(learned))
            for learned, run in itertools.groupby(marked, key=lambda pair: pair[1])
        ]
        if pieces and not pieces[-1][1]:
            del pieces[-1]  # nothing is learned of what follows the last answer, nor from it
        if not pieces:
            raise UserError("its {% generation %} tag marks nothing, so nothing would be learned")
        return Turns(pieces)

    def _by_prefix(self, messages: list[Message]) -> Turns:
        whole = self._render(messages)
        answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        pieces: list[tuple[str | list[int], bool]] = []
        done = 0
        for number in answers:
            asked = self._render_before(messages, number)
            answered = whole if number == answers[-1] else self._render(messages[: number + 1])
            nested = asked is not None and answered.startswith(asked) and whole.startswith(answered)
            if asked is None or not nested or not done <= len(asked) < len(answered):
                return self._last_answer(whole, self._render_before(messages, answers[-1]))
            pieces += [(whole[done : len(asked)], False), (whole[len(asked) : len(answered)], True)]
            done = len(answered)
        return Turns(pieces)

    def _last_answer(self, whole: str, asked: str | None) -> Turns:
        if asked is None or not whole.startswith(asked) or asked == whole:
            raise UserError(
                "it does not begin with what it gives for the messages before the last answer, so what is learned "
                "cannot be told; a {% generation %} tag around the answers would say it"
            )
        return Turns([(asked, False), (whole[len(asked) :], True)], last_only=True)

    def _render(self, messages: list[Message], **options: Any) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def _render_before(self, messages: list[Message], number: int) -> str | None:
        try:
            return self._render(messages[:number], add_generation_prompt=True)
        except Exception:  # a template need not take an unfinished conversation
            return None
