import copy
import re

import pytest

from lightning_coba.data.reading.chat import ChatTemplate, Turns, checked_messages

CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<eos>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '\\n' }}{% endfor %}"
)
# Earlier answers lose their thoughts once the conversation goes on.
FORGETFUL = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}{{ '<eos>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
STRICT = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML

SHORT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
LONG = [*SHORT, {"role": "user", "content": "so?"}, {"role": "assistant", "content": "<t></think>ok"}]


@pytest.fixture
def chat(tokenizer):
    def make(template):
        other = copy.deepcopy(tokenizer)
        other.chat_template = template
        return ChatTemplate(other)

    return make


def test_all_answers_are_learned_by_the_prefix_property(chat):
    assert chat(CHATML).turns(LONG) == Turns(
        [
            ("<|user|>hi<eos>\n<|assistant|>", False),
            ("yo<eos>\n", True),
            ("<|user|>so?<eos>\n<|assistant|>", False),
            ("<t></think>ok<eos>\n", True),
        ]
    )


def test_generation_tag_counts_where_there_is_one(chat):
    template = chat(MARKED)
    turns = template.turns(LONG)
    decoded = [(template.tokenizer.decode(ids), learned) for ids, learned in turns.pieces]
    assert decoded == [
        ("<|user|>hi\n<|assistant|>", False),
        ("yo", True),
        ("\n<|user|>so?\n<|assistant|>", False),
        ("<t></think>ok", True),
    ]
    assert not turns.last_only


def test_template_that_rewrites_earlier_answers_teaches_the_last_one(chat):
    first_thinks = [SHORT[0], {"role": "assistant", "content": "<t></think>yo"}, *LONG[2:]]
    assert chat(FORGETFUL).turns(first_thinks) == Turns(
        [
            ("<|user|>hi<eos>\n<|assistant|>yo<eos>\n<|user|>so?<eos>\n<|assistant|>", False),
            ("<t></think>ok<eos>\n", True),
        ],
        last_only=True,
    )
    assert not chat(FORGETFUL).turns(LONG).last_only


def test_conversation_may_begin_with_an_answer_if_only_the_last_is_learned(chat):
    begins = [SHORT[1], *SHORT]
    assert chat(CHATML).turns(begins).last_only
    with pytest.raises(ValueError, match=r"the chat template does not take this conversation \(user first\)"):
        chat(STRICT).turns(begins)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (None, "a conversation needs a chat template, and the tokenizer has none"),
        ("{{ messages | length }}", "it does not begin with what it gives for the messages before"),
        ("{{ messages[0]['content'] }}", "it does not begin with what it gives for the messages before"),
        ("{% if false %}{% generation %}x{% endgeneration %}{% endif %}y", "its {% generation %} tag marks nothing"),
    ],
)
def test_template_that_does_not_tell_what_is_learned_is_an_error(chat, template, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        chat(template).turns(SHORT)


def test_messages_after_the_last_answer_and_empty_keys_are_left_out():
    messages = [{**SHORT[0], "name": None}, {**SHORT[1], "thought": "t"}, SHORT[0]]
    assert checked_messages(messages, "messages") == [SHORT[0], {**SHORT[1], "thought": "t"}]


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ("[{", "column 'm' is not valid JSON ("),
        ([], "column 'm' must be a list of messages; got an empty one"),
        (7, "column 'm' must be a list of messages; got int"),
        ([SHORT[0], "yo"], "message 1 of column 'm' must have the strings 'role' and 'content' (or"),
        ([{"role": "user", "content": None}], "message 0 of column 'm' must have the strings"),
        ([{"from": "human", "text": "hi"}], "message 0 of column 'm' must have the strings 'role' and 'content' (or"),
        (SHORT[:1], "there is no message of the role 'assistant' in column 'm'"),
        ([SHORT[0], {"role": "assistant", "content": " "}], "the last answer is empty"),
    ],
)
def test_unusable_conversations_are_named(messages, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        checked_messages(messages, "m")


def test_sharegpt_rows_are_conversations():
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo", "weight": 1}]
    assert checked_messages(turns, "m") == [SHORT[0], {**SHORT[1], "weight": 1}]


def test_a_role_that_is_neither_usual_nor_in_the_template_is_refused(chat):
    bard = [{"role": "bard", "content": "hey"}, *SHORT]
    with pytest.raises(ValueError, match=r"message 0 has the role 'bard', which the chat template does not know"):
        chat(CHATML).turns(bard)
    with pytest.raises(ValueError, match=r"Write one of assistant, .*, user\. 'human' is 'user' here"):
        chat(CHATML).turns([{"role": "human", "content": "hi"}, SHORT[1]])
    named = "{% if messages[0]['role'] == 'bard' %}{% endif %}" + CHATML
    assert chat(named).turns(bard).pieces[-1] == ("yo<eos>\n", True)
