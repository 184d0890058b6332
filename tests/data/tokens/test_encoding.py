import copy
import gc
import json
import pickle

import pyarrow as pa
import pytest
from tokenizers import processors

from lightning_coba.data.tokens.encoding import TOKEN_SCHEMA, Encoder

EOS = 256
CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<eos>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


@pytest.fixture
def bos_tokenizer(tokenizer):
    """The same tokenizer with a BOS that it adds itself; id 257."""
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"bos_token": "<bos>"})
    other._tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", other.bos_token_id)]
    )
    return other


@pytest.fixture
def silent_tokenizer(tokenizer):
    """The same tokenizer with a BOS that it does not add."""
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"bos_token": "<bos>"})
    return other


@pytest.fixture
def chat_tokenizer(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = CHATML
    return other


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode(tokenizer, max_length, *rows):
    """Encode (prompt, completion) pairs and conversations; return the table as rows."""
    texts = [(*row, None) if isinstance(row, tuple) else ("", "", json.dumps(row)) for row in rows]
    columns = {name: [text[i] for text in texts] for i, name in enumerate(("prompt", "completion", "messages"))}
    places = {"part": [0] * len(rows), "number": range(1, len(rows) + 1)}
    table = Encoder(tokenizer, max_length, ["a.jsonl:"])(pa.table(columns | places))
    assert table.schema == TOKEN_SCHEMA
    return table.to_pylist()


def learned(row):
    return [token for token, is_learned in zip(row["ids"], row["learned"], strict=True) if is_learned]


def test_boundary_is_exact(tokenizer):
    texts = [("Grüße:\n", "hello"), ("a", " b"), ("x" * 9, "y")]
    rows = encode(tokenizer, 64, *texts)
    for (prompt, completion), row in zip(texts, rows, strict=True):
        assert row["ids"] == [*ids(tokenizer, prompt), *ids(tokenizer, completion), EOS]
        assert learned(row) == [*ids(tokenizer, completion), EOS]
    assert [row["num_tokens"] for row in rows] == [9 + 6, 1 + 3, 9 + 2]
    assert [row["num_learned"] for row in rows] == [6, 3, 2]
    assert not any(row["num_lost"] or row["overlong"] or row["last_only"] for row in rows)


def test_bos_is_put_in_front_only_if_the_tokenizer_adds_one(tokenizer, bos_tokenizer, silent_tokenizer):
    (row,) = encode(bos_tokenizer, 8, ("ab", "c"))
    assert row["ids"] == [bos_tokenizer.bos_token_id, *ids(tokenizer, "abc"), EOS]
    assert row["learned"] == [0, 0, 0, 1, 1]
    assert encode(silent_tokenizer, 8, ("ab", "c"))[0]["ids"] == [*ids(tokenizer, "abc"), EOS]


def test_empty_prompt_gets_one_start_token(tokenizer, bos_tokenizer, silent_tokenizer):
    for some, start in (
        (tokenizer, EOS),
        (silent_tokenizer, silent_tokenizer.bos_token_id),
        (bos_tokenizer, bos_tokenizer.bos_token_id),
    ):
        (row,) = encode(some, 8, ("", "c"))
        assert row["ids"] == [start, *ids(tokenizer, "c"), EOS]
        assert row["learned"] == [0, 1, 1]


def test_long_prompt_is_cut_from_the_left_and_keeps_bos(tokenizer, bos_tokenizer):
    rows = encode(tokenizer, 6, ("abcdef", "xy"), ("ab", "xy"), ("abc", "xy"))
    assert rows[0]["ids"] == [*ids(tokenizer, "defxy"), EOS]
    assert [row["num_tokens"] for row in rows] == [6, 5, 6]
    assert [row["num_lost"] for row in rows] == [3, 0, 0]
    (row,) = encode(bos_tokenizer, 6, ("abcdef", "xy"))
    assert row["ids"] == [bos_tokenizer.bos_token_id, *ids(tokenizer, "efxy"), EOS]
    assert row["learned"] == [0, 0, 0, 1, 1, 1]


def test_completion_that_just_fits(tokenizer, bos_tokenizer):
    for some, first in ((tokenizer, ids(tokenizer, "b")), (bos_tokenizer, [bos_tokenizer.bos_token_id])):
        (row,) = encode(some, 6, ("ab", "1234"))
        assert row["ids"] == [*first, *ids(tokenizer, "1234"), EOS]
        assert row["learned"] == [0, 1, 1, 1, 1, 1]


def test_overlong_completion_is_flagged_beside_rows_that_fit(tokenizer, bos_tokenizer):
    for some in (tokenizer, bos_tokenizer):
        rows = encode(some, 6, ("", "1234"), ("abc", "12345"), ("", "5"))
        assert [row["overlong"] for row in rows] == [False, True, False]
        assert (rows[1]["ids"], rows[1]["num_tokens"], rows[1]["num_learned"]) == ([], 0, 6)
        assert rows[1]["num_lost"] == 0
        assert rows[2]["ids"][1:] == [*ids(tokenizer, "5"), EOS]


def test_conversation_ends_with_one_end_token(chat_tokenizer):
    (row,) = encode(chat_tokenizer, 64, CHAT)
    assert row["ids"] == ids(chat_tokenizer, "<|user|>hi<eos>\n<|assistant|>yo<eos>")
    assert learned(row) == [*ids(chat_tokenizer, "yo<eos>")]
    (row,) = encode(chat_tokenizer, 64, CHAT + CHAT)  # what follows an end token is never generated
    assert chat_tokenizer.decode(row["ids"]).count("yo<eos>\n") == 1
    assert learned(row) == [*ids(chat_tokenizer, "yo<eos>yo<eos>")]
    chat_tokenizer.chat_template = CHATML.replace("<eos>", "")
    (row,) = encode(chat_tokenizer, 64, CHAT)
    assert learned(row) == [*ids(chat_tokenizer, "yo\n"), EOS]


def test_generation_tags_are_followed(chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ':' }}{% if m['role'] == 'assistant' %}{% generation %}"
        "{{ m['content'] + '<eos>' }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ '\\n' }}{% endfor %}"
    )
    (row,) = encode(chat_tokenizer, 64, CHAT + CHAT)
    assert row["ids"] == ids(chat_tokenizer, "user:hi\nassistant:yo<eos>\nuser:hi\nassistant:yo<eos>")
    assert learned(row) == ids(chat_tokenizer, "yo<eos>yo<eos>")


def test_rows_of_both_kinds_keep_their_order(chat_tokenizer):
    rows = encode(chat_tokenizer, 64, ("a", "b"), CHAT, ("c", "d"))
    assert [chat_tokenizer.decode(row["ids"])[:2] for row in rows] == ["ab", "<|", "cd"]


def test_long_conversation_is_cut_from_the_left_even_within_an_answer(chat_tokenizer):
    (whole,) = encode(chat_tokenizer, 100, CHAT + CHAT)
    for max_length in range(4, len(whole["ids"])):
        (row,) = encode(chat_tokenizer, max_length, CHAT + CHAT)
        assert row["ids"] == whole["ids"][-max_length:]
        assert row["learned"] == [0, *whole["learned"][-max_length + 1 :]]
        assert row["num_learned"] == sum(row["learned"])
        assert row["num_lost"] == len(whole["ids"]) - max_length
    assert encode(chat_tokenizer, 3, CHAT + CHAT)[0]["overlong"]


def test_cut_conversation_keeps_the_templates_bos(chat_tokenizer):
    chat_tokenizer.add_special_tokens({"bos_token": "<bos>"})
    chat_tokenizer.chat_template = "{{ bos_token }}" + CHATML
    (row,) = encode(chat_tokenizer, 10, CHAT)
    assert row["ids"] == [chat_tokenizer.bos_token_id, *ids(chat_tokenizer, "tant|>yo<eos>")]


def test_conversation_without_a_template_names_its_row(tokenizer):
    with pytest.raises(ValueError, match=r"a\.jsonl:2: a conversation needs a chat template"):
        encode(tokenizer, 64, ("a", "b"), CHAT)


def test_tokenizer_without_end_token_is_refused(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.eos_token = None
    with pytest.raises(ValueError, match=r"must have an end token.*Set tokenizer.eos_token"):
        Encoder(other, 8)


def test_encoder_travels_to_other_processes_and_leaves_the_collector_on(tokenizer):
    encoder = pickle.loads(pickle.dumps(Encoder(tokenizer, 8, ["x:"])))
    assert (encoder.max_length, encoder.origins) == (8, ["x:"])
    encode(encoder.tokenizer, 8, ("a", "b"))
    assert gc.isenabled()
