import copy
import json
import os
import subprocess
import sys

import pytest

from lightning_coba.data.reading.row_cache import row_tables
from lightning_coba.data.reading.task import Task
from lightning_coba.data.tokens import token_cache
from lightning_coba.data.tokens.token_cache import token_tables, tokenizer_fingerprint

CHATML = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '<eos>' }}{% endfor %}"
CHATML += "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
ROWS = [{"prompt": f"p{i}", "completion": "c" * (i % 7 + 1)} for i in range(2500)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COBA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture
def chat_tokenizer(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = CHATML
    return other


@pytest.fixture
def calls(monkeypatch):
    """Count the batches that are encoded from here on, in this process."""
    numbers = []

    class Counted(token_cache.Encoder):
        def __call__(self, batch):
            numbers.append(batch.num_rows)
            return super().__call__(batch)

    monkeypatch.setattr(token_cache, "Encoder", Counted)
    return numbers


def encode(source, tokenizer, max_length=32, num_proc=None, **options):
    (store,) = token_tables(row_tables([Task("t", source, **options)]), tokenizer, max_length, num_proc)
    return store


def test_files_and_streams_get_the_same_tokens(file, tokenizer):
    tokens = encode(file, tokenizer).table
    assert encode(iter(ROWS), tokenizer).table.equals(tokens)
    assert tokenizer.decode(tokens.column("ids")[2001].as_py()) == "p2001" + "c" * (2001 % 7 + 1) + "<eos>"


def test_what_is_kept_is_not_encoded_again(file, tokenizer, calls):
    first = encode(file, tokenizer)
    assert sum(calls) == 2500
    num_calls = len(calls)
    assert encode(file, tokenizer).table.equals(first.table)
    assert len(calls) == num_calls


def test_padded_calls_between_do_not_matter(file, tokenizer, calls):
    encode(file, tokenizer)
    num_calls = len(calls)
    tokenizer("abcd", truncation=True, max_length=2)
    assert tokenizer.backend_tokenizer.truncation is not None
    encode(file, tokenizer)
    assert len(calls) == num_calls


def test_another_template_length_or_end_token_encodes_again(tmp_path, chat_tokenizer, calls):
    file = tmp_path / "short.jsonl"
    file.write_text(json.dumps(ROWS[0]))
    before = encode(file, chat_tokenizer, chat=True)
    encode(file, chat_tokenizer, 31, chat=True)
    assert len(calls) == 2
    chat_tokenizer.chat_template = CHATML.replace(":", ">")
    after = encode(file, chat_tokenizer, chat=True)
    assert len(calls) == 3
    assert chat_tokenizer.decode(before.table.column("ids")[0].as_py()) == "user:p0<eos>assistant:c<eos>"
    assert chat_tokenizer.decode(after.table.column("ids")[0].as_py()) == "user>p0<eos>assistant>c<eos>"
    chat_tokenizer.add_special_tokens({"eos_token": "<end>"})
    encode(file, chat_tokenizer, chat=True)
    assert len(calls) == 4


def test_fingerprint_is_that_of_what_a_tokenizer_does(tokenizer):
    other = copy.deepcopy(tokenizer)
    assert tokenizer_fingerprint(other) == tokenizer_fingerprint(tokenizer)
    other.add_tokens(["ab"])
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_several_processes_give_the_same_and_are_kept_whatever_their_number(file, tokenizer, calls):
    alone = encode(iter(ROWS), tokenizer)
    calls.clear()
    threads = os.environ.get("TOKENIZERS_PARALLELISM")
    together = encode(file, tokenizer, num_proc=2)
    assert not calls  # it was others who encoded
    assert together.table.equals(alone.table)
    assert encode(file, tokenizer, num_proc=None).table.equals(together.table)
    assert not calls
    assert os.environ.get("TOKENIZERS_PARALLELISM") == threads


def test_unfinished_tokens_are_never_taken_for_whole(file, tokenizer, cache, monkeypatch):
    def killed(self, batch):
        if batch.column("number")[0].as_py() > 1000:
            raise KeyboardInterrupt
        return encoder(self, batch)

    encoder = token_cache.Encoder.__call__
    with monkeypatch.context() as patch:
        patch.setattr(token_cache.Encoder, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            encode(file, tokenizer)
    assert list(cache.iterdir()) == []
    assert len(encode(file, tokenizer)) == 2500


def test_small_data_print_nothing(file, tokenizer, capfd):
    encode(file, tokenizer)
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("num_proc", [None, 2])
def test_bad_conversation_names_its_line(tmp_path, tokenizer, num_proc):
    file = tmp_path / "chats.jsonl"
    rows = [{"messages": [{"role": role, "content": "x"} for role in ("user", "assistant")]}] * 2
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"chats\.jsonl:1: a conversation needs a chat template"):
        encode(file, tokenizer, num_proc=num_proc)


# Encodes with a tokenizer that takes as long as stdin is open, from a file and into the cache that are named.
ENCODER = """
import sys
from transformers import AutoTokenizer
from lightning_coba.data.reading.row_cache import row_tables
from lightning_coba.data.reading.task import Task
from lightning_coba.data.tokens import token_cache

class Counted(token_cache.Encoder):
    def __call__(self, batch):
        print("encodes", flush=True)
        sys.stdin.read()
        return super().__call__(batch)

token_cache.Encoder = Counted
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
token_cache.token_tables(row_tables([Task("t", sys.argv[1])]), tokenizer, 32)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_two_runs_encode_a_task_once_and_another_does_not_wait(file, model_folder, tokenizer, calls, tmp_path):
    line = [sys.executable, "-c", ENCODER, str(file), str(model_folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    slow = subprocess.Popen(line, **pipes)
    assert slow.stdout.readline() == "encodes\n"
    encode(iter(ROWS[:5]), tokenizer)  # other data
    assert calls == [5]
    second = subprocess.Popen(line, **pipes)
    assert f"Waiting for process {slow.pid} to make the tokens of {file}." in second.stderr.readline()
    slow.communicate(timeout=60)
    printed, _ = second.communicate(timeout=60)
    assert printed == ""
