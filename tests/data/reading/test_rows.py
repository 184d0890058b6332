import json
import re

import pytest

from lightning_coba.data.reading.rows import Row, digest, matches, normalised, row_of
from lightning_coba.data.reading.task import Task

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def row(fields, **options):
    return row_of(Task("t", "unread", **options), fields)


def test_template_is_filled_from_the_columns():
    fields = {"text": "hi {x}", "n": 3, "at": {"k": "v"}}
    found = row(fields, prompt="{{{n}}} {text}{at[k]}:\n", completion="{n}")
    assert found == Row("{3} hi {x}v:\n", "3")


BAD = [
    (
        {"question": "p", "completion": "c"},
        "there is no column 'prompt', which Task 't' uses as prompt. The columns are 'question', 'completion'.",
        "data.prompt=NAME, or prompt of the Task",
    ),
    ({}, "there is no column", "The columns are none"),
    ({"turns": CHAT}, "there is no column", "If 'turns' holds conversations, type data.messages=turns"),
    (
        {"prompt": 3, "completion": "c"},
        "column 'prompt' (prompt) must be a string; got int",
        "set prompt='{prompt}' in Task 't'",
    ),
    ({"prompt": "p", "completion": None}, "column 'completion' (completion) must be a string", "got NoneType"),
    ({"prompt": "p", "completion": " \n"}, "the completion is empty", "Fill it in, or delete the row"),
    ({"prompt": "\ud800", "completion": "c"}, "the prompt holds half of a surrogate pair", "Repair the row"),
    ({"messages": [{**CHAT[0], "content": "\ud800"}, CHAT[1]]}, "the conversation holds half of a", "Repair the row"),
]


@pytest.mark.parametrize(("fields", "complaint", "cure"), BAD)
def test_bad_row_is_named_with_its_cure(fields, complaint, cure):
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        row(fields)
    assert cure in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"completion": "c"}, "there is no column 'text', which Task 't' uses as prompt"),
        ({"text": None, "completion": "c"}, "column 'text' (prompt template) must be a string or a number"),
    ],
)
def test_template_errors_name_the_row(fields, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        row(fields, prompt="Say {text}")


def test_rows_with_messages_and_without_a_prompt_are_conversations():
    found = row({"messages": CHAT, "prompt": None})
    assert found[:2] == ("hi", "yo")
    assert json.loads(found.messages) == CHAT
    assert row({"messages": json.dumps(CHAT)}) == found
    assert row({"turns": CHAT}, messages="turns") == found
    assert row({"messages": CHAT}, prompt="{question}\n") == found
    assert row({"messages": CHAT, "prompt": "hi"}) == found  # without a completion, the prompt says nothing


def test_what_stands_before_the_last_answer_is_the_prompt():
    longer = [*CHAT, {"role": "user", "content": "and?"}, {"role": "assistant", "content": "ok"}]
    assert row({"messages": longer})[:2] == ("hi\nyo\nand?", "ok")
    assert row({"messages": [*longer, {"role": "user", "content": "bye"}]}) == row({"messages": longer})


def test_rows_with_a_prompt_are_conversations_on_request():
    fields = {"prompt": "hi", "completion": "yo", "messages": [{"role": "user", "content": "other"}]}
    assert row(fields) == row(fields, chat=False) == Row("hi", "yo")
    assert row(fields, chat=True) == row({"messages": CHAT})
    assert row({"q": "hi", "a": "yo"}, prompt="{q}", completion="a", chat=True) == row({"messages": CHAT})


def test_prompt_and_completion_may_be_lists_of_messages():
    assert row({"prompt": CHAT[:1], "completion": CHAT[1:]}) == row({"messages": CHAT})


def test_messages_are_no_conversation_if_chat_is_false():
    with pytest.raises(ValueError, match="there is no column 'completion'"):
        row({"messages": CHAT}, chat=False)


def test_where_asks_for_equal_values():
    fields = {"task": "qa", "n": 1}
    assert matches(None, fields)
    assert matches({"task": "qa", "n": 1}, fields)
    assert not matches({"task": "qa", "n": 2}, fields)
    assert not matches({"lang": "de"}, fields)


def test_digest_is_that_of_the_normalised_prompt():
    assert normalised(" A\tb\n") == "a b"
    assert digest(Row(" A\tb\n", "x")) == digest(Row("a b", "y")) != digest(Row("a", "x"))
    assert all(0 <= number < 2**64 for number in digest(Row("a", "b")))
    assert digest(Row("", "x")) != digest(Row(" ", "y"))
