import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightning_coba.data import Task, tasks_at
from lightning_coba.data.tokens import token_cache
from lightning_coba.data.tokens.corpus import load_corpus

CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<eos>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
REAL = Path(__file__).parents[3] / "shared" / "data" / "nlu"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(name, count, **extra):
    return [{"prompt": f"{name} {i}:\n", "completion": "x" * (i % 4 + 1), **extra} for i in range(count)]


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def chats(count):
    return [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "yes"}]}
        for i in range(count)
    ]


def decoded(corpus, tokenizer, split="train", task=0):
    return [
        (tokenizer.decode(ids[~learned]), tokenizer.decode(ids[learned]))
        for ids, learned in corpus.tokens[split][task].take(range(len(corpus.tokens[split][task])))
    ]


def test_splits_are_carved_tokenised_and_readable_as_text(tmp_path, tokenizer):
    file = write(tmp_path / "a.jsonl", rows("a", 40))
    corpus = load_corpus([Task("a", file), Task("b", rows("b", 20))], tokenizer, 64)
    assert corpus.sizes() == {"train": {"a": 32, "b": 16}, "validation": {"a": 4, "b": 2}, "test": {"a": 4, "b": 2}}
    for split, tokens in corpus.tokens.items():
        for task in range(2):
            texts = [corpus.text(split, task, row) for row in range(len(tokens[task]))]
            assert [(prompt, text + "<eos>") for prompt, text in texts] == decoded(corpus, tokenizer, split, task)
            assert tokens[task].lengths.tolist() == [len(p) + len(c) + 1 for p, c in texts]
    prompt, _ = corpus.text("test", 0, 1)
    assert corpus.origin("test", 0, 1) == f"{file}:{int(prompt[2:-2]) + 1}"


def test_pairs_are_those_that_are_shown(tokenizer):
    tasks = [Task(name, rows(name, 10), rows(f"v{name}", 6), rows(f"t{name}", 3)) for name in "ab"]
    corpus = load_corpus(tasks, tokenizer, 64, validation_rows=4, test_rows=2)
    assert [len(corpus.pairs(split)) for split in ("train", "validation", "test")] == [20, 8, 4]
    pairs = corpus.pairs("validation", 1)
    assert pairs.dtype == np.int64
    assert pairs.tolist() == [[1, row] for row in corpus.shown["validation"][1]]
    assert corpus.pairs("validation").tolist() == [*corpus.pairs("validation", 0).tolist(), *pairs.tolist()]


def test_longest_rows_come_first(tokenizer):
    tasks = [Task(name, rows(name, 10)) for name in ("a", "longer")]
    corpus = load_corpus(tasks, tokenizer, 64)
    pairs = corpus.longest_first("train")
    lengths = [int(corpus.tokens["train"][task].lengths[row]) for task, row in pairs]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(pairs.tolist()) == corpus.pairs("train").tolist()


def test_prompts_that_are_cut_are_warned_of_once_per_task_with_what_to_set(tokenizer):
    long = [{"prompt": "x" * (90 if i < 31 else 9) + f"{i}\n", "completion": "c"} for i in range(40)]
    few = rows("b", 300)
    few[0]["prompt"] = "x" * 90
    with pytest.warns(UserWarning, match="lose the beginning") as warned:
        load_corpus([Task("a", long), Task("b", few)], tokenizer, 64)
    [told] = [str(warning.message) for warning in warned]  # one row of 300 is no reason to warn
    assert told.startswith("Task 'a': 31 of 40 rows lose the beginning of their prompt")
    assert "data.max_length=128 keeps all of them whole" in told
    assert "the longest has 95 tokens" in told


def test_tasks_of_one_file_are_found_by_a_column(tmp_path, tokenizer):
    file = write(tmp_path / "all.jsonl", rows("a", 10, task="a") + rows("b", 20, task="b"))
    corpus = load_corpus(tasks_at(file), tokenizer, 64)
    assert corpus.tasks == ("a", "b")
    assert [sum(corpus.sizes()[split][task] for split in corpus.sizes()) for task in "ab"] == [10, 20]
    assert all(prompt[0] == "b" for prompt, _ in decoded(corpus, tokenizer, task=1))


def test_folder_of_other_formats_with_chats(tmp_path, tokenizer):
    template = copy.deepcopy(tokenizer)
    template.chat_template = CHATML
    (tmp_path / "data" / "chat").mkdir(parents=True)
    for part, half in enumerate((chats(20)[:10], chats(20)[10:])):
        parquet.write_table(pa.Table.from_pylist(half), tmp_path / f"data/chat/train-0000{part}-of-00002.parquet")
    (tmp_path / "data" / "table").mkdir()
    cells = "".join(f"p{i},c\n" for i in range(12))
    (tmp_path / "data" / "table" / "some.csv").write_text(f"prompt,completion\n{cells}")
    corpus = load_corpus(tasks_at(tmp_path / "data"), template, 64)
    assert [corpus.sizes()["train"][task] for task in ("chat", "table")] == [16, 10]
    prompt, answer = decoded(corpus, template)[0]
    assert re.fullmatch(r"<\|user\|>q\d+<eos>\n<\|assistant\|>", prompt)
    assert answer == "yes<eos>"
    assert corpus.text("train", 0, 0)[1] == "yes"
    assert "train-00000-of-00002.parquet row " in corpus.origin("train", 0, 0)


def test_same_question_as_text_and_as_chat_is_an_overlap(tokenizer):
    template = copy.deepcopy(tokenizer)
    template.chat_template = CHATML
    texts = [{"prompt": f"q{i}", "completion": "c"} for i in range(10)]
    tasks = [Task("chat", chats(10), rows("v", 2), rows("t", 2)), Task("text", rows("a", 9), rows("b", 2), texts[3:5])]
    with pytest.warns(UserWarning, match=r"Task 'chat': 2 rows were dropped.*2 train rows also in text/test"):
        corpus = load_corpus(tasks, template, 64)
    assert corpus.num_overlapping == {"chat": 2, "text": 0}


def test_earlier_answers_that_are_not_learned_are_counted_once_a_task(tokenizer):
    template = copy.deepcopy(tokenizer)
    template.chat_template = CHATML.replace(
        "m['content']", "(m['content'] if m == messages[-1] or m['role'] == 'user' else '...')"
    )
    more = [{"role": "user", "content": "sure?"}, {"role": "assistant", "content": "no"}]
    turns = [{"messages": row["messages"] + more} for row in chats(10)]
    with pytest.warns(UserWarning, match="of 10 conversations only the last answer is learned") as caught:
        load_corpus([Task("a", turns), Task("b", rows("b", 10))], template, 128)
    assert [str(warning.message).split(":")[0] for warning in caught] == ["Task 'a'"]


def test_overlong_rows_are_named_or_dropped_everywhere(tmp_path, tokenizer):
    many = [{"prompt": str(i), "completion": "x" * (1 + 20 * (i % 4 == 0))} for i in range(80)]
    task = Task("t", write(tmp_path / "a.jsonl", many))
    with pytest.raises(ValueError, match=r"a\.jsonl:\d*[1357]: the completion has 21 tokens"):
        load_corpus([task], tokenizer, 8)
    with pytest.warns(UserWarning, match="rows were dropped, because their completion does not fit"):
        corpus = load_corpus([task], tokenizer, 8, overlong="drop")
    assert sum(corpus.sizes()[split]["t"] for split in corpus.sizes()) == 60
    assert all(corpus.text("train", 0, row)[1] == "x" for row in range(len(corpus.tokens["train"][0])))


def test_second_run_neither_reads_nor_encodes(tmp_path, tokenizer, monkeypatch):
    task = Task("t", write(tmp_path / "a.jsonl", rows("a", 40)))
    first = load_corpus([task], tokenizer, 64)
    monkeypatch.setattr(token_cache, "Encoder", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr("lightning_coba.data.reading.sources.read_file", lambda *_: pytest.fail("read again"))
    second = load_corpus([task], tokenizer, 64)
    for split in first.tokens:
        assert decoded(first, tokenizer, split) == decoded(second, tokenizer, split)


def test_reading_and_encoding_do_not_wait_for_the_datasets_library(tmp_path):
    write(tmp_path / "a.jsonl", rows("a", 20, task="a"))
    write(tmp_path / "b.jsonl", rows("b", 20, task="b"))
    script = f"""
import sys
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from lightning_coba.data import MultitaskDataModule
backend = Tokenizer(models.WordLevel({{"a": 0, "<eos>": 1}}, unk_token="a"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
data = MultitaskDataModule(root={str(tmp_path)!r}, tokenizer=tokenizer)
data.setup("fit")
next(iter(data.train_dataloader()))
assert "datasets" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def anonymous_bytes():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads what Linux says about memory")
def test_memory_does_not_grow_with_the_rows(monkeypatch):
    words = [f"w{i}" for i in range(1000)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*words, "<eos>"])}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    text = " ".join(words[::3]) + " "
    reading, encoding = [], []

    def stream():
        for i in range(9_000):
            if i % 1000 == 0:
                reading.append(anonymous_bytes())
            yield {"prompt": f"{text} {i}", "completion": "w1"}

    encode = token_cache.Encoder.__call__

    def measured(self, batch):
        encoding.append(anonymous_bytes())
        return encode(self, batch)

    monkeypatch.setattr(token_cache.Encoder, "__call__", measured)
    corpus = load_corpus([Task("t", stream())], tokenizer, 512)
    assert sum(int(rows.lengths.sum()) for (rows,) in corpus.tokens.values()) * 5 > 14e6  # bytes on disk
    # In the first third the buffers find their size; what follows is 10 MB of text and 10 MB of tokens.
    for measures in (reading, encoding):
        later = measures[len(measures) // 3 :]
        assert max(later) - later[0] < 7e6


@pytest.mark.skipif(not REAL.exists(), reason="the shared data sets are not here")
def test_real_task_is_read_whole(tokenizer):
    task = next(task for task in tasks_at(REAL) if task.name == "causal_copa")
    corpus = load_corpus([task], tokenizer, 2048)
    assert {split: corpus.sizes()[split]["causal_copa"] for split in corpus.tokens} == {
        "train": 700,
        "validation": 99,
        "test": 200,
    }
