"""Prompts are those of training, and the columns that training has no use for come along."""

import json

import pytest

from lightning_coba.data import MultitaskDataModule, Task
from lightning_coba.evaluation.rows import evaluation_rows, fewer_rows, longest_answer


def test_prompts_are_what_training_reads_before_the_completion(datamodule, tokenizer):
    rows = evaluation_rows(datamodule, "test", 0)
    assert {row.messages for row in rows} == {None}
    assert [row.prompt for row in rows] == [f"capital {i}?\n" for i in range(200, 206)]
    assert [tokenizer.decode(row.prompt_ids) for row in rows] == [row.prompt for row in rows]
    ids, learned = datamodule.corpus.tokens["test"][0].take([0])[0]
    assert rows[0].prompt_ids == tuple(ids[~learned].tolist())
    assert rows[0].fields["answers"] == ["city 200", "200"]
    assert rows[0].gold == "city 200"
    assert rows[0].origin.endswith("capitals/test.jsonl:1")


@pytest.mark.filterwarnings("ignore:.*lose the beginning of their prompt")
def test_long_prompts_are_cut_as_in_training(data_folder, tokenizer):
    datamodule = MultitaskDataModule(root=data_folder, tokenizer=tokenizer, max_length=14)
    datamodule.setup("fit")
    row = evaluation_rows(datamodule, "test", 0)[0]
    assert tokenizer.decode(row.prompt_ids) == "200?\n"  # 14 tokens: 8 of the completion and the end token


def test_of_a_conversation_the_last_answer_is_asked_for(tokenizer):
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer._tokenizer, eos_token="<eos>")
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
    )
    turns = [("user", "hi"), ("assistant", "hello"), ("user", "why?"), ("assistant", "because {}")]
    rows = [{"messages": [{"role": r, "content": c.format(i)} for r, c in turns], "id": i} for i in range(4)]
    for i, row in enumerate(rows):
        row["messages"][0]["content"] += str(i)
    datamodule = MultitaskDataModule([Task("talk", rows[:2], rows[2:3], rows[3:])], tokenizer=tokenizer)
    datamodule.setup("fit")
    row = evaluation_rows(datamodule, "test", 0)[0]
    assert tokenizer.decode(row.prompt_ids) == "[u]hi3[a]hello<eos>[u]why?[a]"
    assert (row.gold, row.fields["id"]) == ("because 3", 3)
    assert [turn["role"] for turn in json.loads(row.messages)] == [role for role, _ in turns]


def test_rows_without_a_prompt_begin_with_the_start_token(tokenizer):
    rows = [{"prompt": "", "completion": f"text {i}"} for i in range(4)]
    datamodule = MultitaskDataModule([Task("free", rows[:2], rows[2:3], rows[3:])], tokenizer=tokenizer)
    datamodule.setup("fit")
    assert evaluation_rows(datamodule, "test", 0)[0].prompt_ids == (256,)


def test_carved_splits_and_generators_too(tokenizer):
    rows = [{"prompt": f"{i}?", "completion": "x", "answers": [str(i)]} for i in range(40)]
    datamodule = MultitaskDataModule(
        [Task("a", rows), Task("b", (dict(r, prompt=r["prompt"] + "b") for r in rows))], tokenizer=tokenizer
    )
    datamodule.setup("fit")
    carved, gone = evaluation_rows(datamodule, "test", 0), evaluation_rows(datamodule, "test", 1)
    assert carved
    assert all(row.fields["answers"] == [row.prompt.removesuffix("?")] for row in carved)
    assert gone
    assert all(row.fields == {} for row in gone)  # a generator is read once


def test_a_part_of_the_rows_is_fixed(datamodule, data_folder, tokenizer):
    rows = evaluation_rows(datamodule, "validation", 1)
    part = fewer_rows(datamodule, "validation", 1, rows, 3)
    other = MultitaskDataModule(root=data_folder, tokenizer=tokenizer, seed=9, validation_rows=3, max_length=64)
    other.setup("fit")
    assert len(part) == 3
    assert [row.prompt for row in evaluation_rows(other, "validation", 1)] == [row.prompt for row in part]


@pytest.mark.parametrize(("task", "expected"), [(0, 22), (1, 14)])
def test_answers_may_be_longer_than_the_longest_completion(datamodule, task, expected):
    # "city 11" and "city 100": 8 characters and the end token, 9 * 1.5 + 8; "yes": 4 * 1.5 + 8.
    assert longest_answer(datamodule, task) == expected
