import copy
import re

import pytest
import torch
from tokenizers import processors

from lightning_coba.data.sources import Row
from lightning_coba.data.tokenization import tokenize

EOS = 256


@pytest.fixture
def bos_tokenizer(tokenizer):
    """The same tokenizer with a BOS that it adds itself; id 257."""
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"bos_token": "<bos>"})
    other._tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", other.bos_token_id)]
    )
    return other


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def row(prompt, completion, line=1):
    return Row(prompt, completion, f"a.jsonl:{line}")


def test_boundary_is_exact(tokenizer):
    texts = [("Grüße:\n", "hello"), ("a", " b"), ("x" * 9, "y")]
    rows = tokenize([row(*text) for text in texts], tokenizer, max_length=64)
    assert len(rows) == 3
    for (prompt, completion), (tokens, prompt_length) in zip(texts, rows, strict=True):
        assert tokens[:prompt_length].tolist() == ids(tokenizer, prompt)
        assert tokens[prompt_length:].tolist() == [*ids(tokenizer, completion), EOS]
    assert rows.ids.dtype == torch.int32
    assert rows.lengths.tolist() == [9 + 6, 1 + 3, 9 + 2]
    assert rows.completion_tokens.tolist() == [6, 3, 2]


def test_more_rows_than_a_tokenizer_call_takes_keep_their_order(tokenizer):
    texts = [row("p", str(i)) for i in range(5000)]
    rows = tokenize(texts, tokenizer, max_length=16)
    assert [rows[i][0][1:-1].tolist() for i in (0, 4095, 4096, 4999)] == [
        ids(tokenizer, str(i)) for i in (0, 4095, 4096, 4999)
    ]


def test_bos_is_put_in_front_only_if_the_tokenizer_adds_one(tokenizer, bos_tokenizer):
    tokens, prompt_length = tokenize([row("ab", "c")], bos_tokenizer, max_length=8)[0]
    assert tokens.tolist() == [bos_tokenizer.bos_token_id, *ids(tokenizer, "abc"), EOS]
    assert prompt_length == 3
    silent = copy.deepcopy(tokenizer)
    silent.add_special_tokens({"bos_token": "<bos>"})
    assert tokenize([row("ab", "c")], silent, max_length=8)[0][0].tolist() == [*ids(tokenizer, "abc"), EOS]


def test_empty_prompt_gets_one_start_token(tokenizer, bos_tokenizer):
    silent = copy.deepcopy(tokenizer)
    silent.add_special_tokens({"bos_token": "<bos>"})
    for some, start in (
        (tokenizer, EOS),
        (silent, silent.bos_token_id),
        (bos_tokenizer, bos_tokenizer.bos_token_id),
    ):
        tokens, prompt_length = tokenize([row("", "c")], some, max_length=8)[0]
        assert tokens.tolist() == [start, *ids(tokenizer, "c"), EOS]
        assert prompt_length == 1


def test_long_prompt_is_cut_from_the_left_and_keeps_bos(tokenizer, bos_tokenizer):
    rows = tokenize([row("abcdef", "xy"), row("ab", "xy"), row("abc", "xy")], tokenizer, max_length=6)
    assert rows[0][0].tolist() == [*ids(tokenizer, "defxy"), EOS]
    assert rows.lengths.tolist() == [6, 5, 6]
    assert rows.num_cut_prompts == 1
    tokens, prompt_length = tokenize([row("abcdef", "xy")], bos_tokenizer, max_length=6)[0]
    assert tokens.tolist() == [bos_tokenizer.bos_token_id, *ids(tokenizer, "efxy"), EOS]
    assert prompt_length == 3


def test_completion_that_just_fits(tokenizer, bos_tokenizer):
    for some, first in ((tokenizer, ids(tokenizer, "b")), (bos_tokenizer, [bos_tokenizer.bos_token_id])):
        tokens, prompt_length = tokenize([row("ab", "1234")], some, max_length=6)[0]
        assert tokens.tolist() == [*first, *ids(tokenizer, "1234"), EOS]
        assert prompt_length == 1


def test_overlong_completion_is_an_error_with_its_line(tokenizer, bos_tokenizer):
    rows = [row("", "1234"), row("", "12345", line=2)]
    for some in (tokenizer, bos_tokenizer):
        with pytest.raises(ValueError, match=re.escape("a.jsonl:2: the completion has 5 tokens")) as caught:
            tokenize(rows, some, max_length=6)
        assert "needs 7, more than MultitaskDataModule.max_length=6" in str(caught.value)
        assert 'set overlong="drop"' in str(caught.value)


def test_overlong_drop_counts_warns_and_says_which_are_kept(tokenizer):
    with pytest.warns(UserWarning, match="Task 't': 1 of 3 rows were dropped.*max_length=6"):
        rows = tokenize([row("", "1"), row("", "12345"), row("", "3")], tokenizer, 6, overlong="drop", task="t")
    assert rows.kept.tolist() == [0, 2]
    assert rows.num_dropped == 1
    assert rows[1][0][1:-1].tolist() == ids(tokenizer, "3")
    with pytest.raises(ValueError, match=r"None is left. Raise max_length"):
        tokenize([row("", "12345")], tokenizer, 6, overlong="drop", task="t")


def test_tokenizer_without_end_token_is_refused(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.eos_token = None
    with pytest.raises(ValueError, match=r"must have an end token.*Set tokenizer.eos_token"):
        tokenize([row("a", "b")], other, max_length=8)
