"""From a model and its data to metrics on disk."""

import csv
import io
import json
from dataclasses import replace

import pytest
from peft import LoraConfig, get_peft_model

from lightning_coba.evaluation import Evaluation
from lightning_coba.evaluation.evaluating import evaluate, evaluate_model
from lightning_coba.evaluation.predictions import Predictions
from lightning_coba.evaluation.results import Measured, TaskResult
from lightning_coba.evaluation.rows import EvaluationRow, evaluation_rows
from lightning_coba.evaluation.samples import write_samples
from lightning_coba.evaluation.scores import Score
from lightning_coba.models.generation import Decoding


class Parrot:
    """Stands in for a model that has learned its tasks: says what it is told to, whatever the prompt."""

    def __init__(self, model, answers, tokenizer):
        self._model, self._answers, self._tokenizer = model, answers, tokenizer

    def __getattr__(self, name):
        return getattr(self._model, name)

    def generate(self, input_ids, attention_mask):
        import torch

        rows = []
        for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            prompt = self._tokenizer.decode([token for token, kept in zip(ids, mask, strict=True) if kept])
            answer = self._tokenizer(self._answers(prompt), add_special_tokens=False)["input_ids"][:30]
            rows.append(ids + answer + [256] * (31 - len(answer)))
        return torch.tensor(rows)


def test_metrics_are_those_of_the_answers(llama, datamodule, tokenizer, tmp_path):
    def answer(prompt):
        number = int("".join(filter(str.isdigit, prompt)))
        if "capital" in prompt:
            return f"City {number}." if number < 203 else "city of cities"
        return "yes"

    result = evaluate_model(Parrot(llama(), answer, tokenizer), datamodule, tmp_path / "out")
    capitals, odd = (result.tasks[task].metrics for task in ("capitals", "odd"))
    assert list(capitals) == ["answer_match", "token_f1"]
    assert capitals["answer_match"].score.value == 0.5
    # "city" of the three words of the answer and the two of the right one: P 1/3, R 1/2.
    assert capitals["token_f1"].score.value == pytest.approx((3 + 3 * 0.4) / 6)
    assert odd["accuracy"].score.value == 0.5
    assert odd["macro_f1"].score.value == pytest.approx((2 / 3 + 0) / 2)
    with (tmp_path / "out" / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0].keys() == {"task", "metric", "value", "low", "high", "rows"}
    assert (rows[0]["task"], rows[0]["metric"], float(rows[0]["value"]), rows[0]["rows"]) == (
        "capitals", "answer_match", 0.5, "6",
    )  # fmt: skip
    assert 0 <= float(rows[0]["low"]) < 0.5 < float(rows[0]["high"]) <= 1
    card = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert card["tasks"]["odd"]["metrics"]["accuracy"]["value"] == 0.5
    assert card["split"] == "test"
    page = (tmp_path / "out" / "samples.html").read_text()
    assert "city of cities" in page
    assert "City 200." in page


def test_base_is_the_model_without_its_adapter_on_the_same_rows(llama, datamodule, tmp_path):
    model = get_peft_model(llama(), LoraConfig(target_modules="all-linear", r=4, init_lora_weights=False))
    options = {"max_new_tokens": 6, "metrics": {"capitals": ["chrf"], "odd": ["chrf", "exact_match"]}}
    both = evaluate_model(model, datamodule, tmp_path / "both", base=True, **options)
    alone = evaluate_model(llama(), datamodule, tmp_path / "alone", **options)
    for task, result in both.tasks.items():
        assert result.base_answers == alone.tasks[task].answers != result.answers
        found = result.metrics["chrf"]
        assert found.base == alone.tasks[task].metrics["chrf"].score
        assert found.difference.value == pytest.approx(found.score.value - found.base.value)
    assert (tmp_path / "both" / "predictions" / "base" / "odd.jsonl").is_file()
    header = (tmp_path / "both" / "metrics.csv").read_text().splitlines()[0]
    assert header == "task,metric,value,low,high,rows,base,difference,difference_low,difference_high"
    text = render(both.table(), 100)
    for words in ("TEST split", "capitals", "chrf", "exact_match", "before", "change"):
        assert words in text
    with pytest.raises(ValueError, match=r"`evaluate_model.base` must be False for a model without an adapter"):
        evaluate_model(llama(), datamodule, tmp_path / "no", base=True)


def render(table, width):
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_table_keeps_names_whole_at_80_columns(llama, datamodule, tmp_path):
    result = evaluate_model(llama(), datamodule, tmp_path / "out", split="validation", max_new_tokens=2)
    text = render(result.table(), 80)
    assert max(map(len, text.splitlines())) <= 80
    for words in ("VALIDATION", "capitals", "answer_match", "macro_f1"):
        assert words in text


def test_several_answers_to_a_row(llama, datamodule, tmp_path):
    result = evaluate_model(
        llama(),
        datamodule,
        tmp_path,
        tasks=["odd"],
        max_new_tokens=4,
        decoding=Decoding(1.0, 2),
        metrics={"odd": ["chrf"]},
    )
    assert list(result.tasks) == ["odd"]
    assert all(len(answers) == 2 for answers in result.tasks["odd"].answers)
    assert result.tasks["odd"].metrics["chrf"].rows == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["nope"]}, r"`evaluate.tasks` must name tasks of the run \(capitals, odd\); got nope"),
        ({"split": "train"}, r"`evaluate.split` must be one of test, validation; got 'train'"),
        ({"max_new_tokens": 0}, r"`evaluate.max_new_tokens` must be at least 1"),
        ({"k": 2}, r"`evaluate.k` must be from 1 to the number of samples, 1; got 2"),
        ({"decoding": Decoding(0.0, 0)}, r"`generate.decoding` must .* at least 1 sample; got 0.0 and 0"),
        ({"metrics": {"odd": ["best"]}}, r"must be among accuracy"),
    ],
)
def test_arguments_outside_their_domain_are_refused(llama, datamodule, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_model(llama(), datamodule, tmp_path, **change)
    assert not list(tmp_path.glob("metrics*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "gpu"}, r"`evaluate.device` must be auto or a device of this machine \(cpu.*\); got 'gpu'"),
        ({"device": "cuda:99"}, r"`evaluate.device` must be .*; got 'cuda:99'"),
        ({"dtype": "float8"}, r"`evaluate.dtype` must be .* bfloat16 .*; got 'float8'"),
        ({"dtype": "int8"}, r"`evaluate.dtype` must be .*; got 'int8'"),
    ],
)
def test_what_the_weights_cannot_be_is_refused_before_anything_is_read(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate("no such run", **change)


def test_kept_answers_are_those_of_the_same_settings(tmp_path, datamodule):
    rows = evaluation_rows(datamodule, "test", 0)
    kept = Predictions(tmp_path / "p.jsonl", "one")
    kept.add(rows[:2], [["a"], ["b\n\u2028"]], [[1], [2]])
    kept.add(rows[2:3], [["c"]], [[1]])
    again = Predictions(tmp_path / "p.jsonl", "one")
    assert [again.answers(row) for row in rows[:4]] == [["a"], ["b\n\u2028"], ["c"], None]
    changed = EvaluationRow(rows[0].number, (1, 2), "another prompt", rows[0].gold)
    assert again.answers(changed) is None
    with (tmp_path / "p.jsonl").open("a") as stream:
        stream.write('{"row": 3, "key": "cut o')  # where a process was killed
    cut = Predictions(tmp_path / "p.jsonl", "one")
    assert cut.answers(rows[2]) == ["c"]
    cut.add(rows[3:4], [["d"]], [[1]])
    assert Predictions(tmp_path / "p.jsonl", "one").answers(rows[3]) == ["d"]
    other = Predictions(tmp_path / "p.jsonl", "two")
    assert (other.num_replaced, other.answers(rows[0])) == (4, None)
    assert (tmp_path / "p.jsonl").read_text() == ""


def test_page_escapes_what_a_model_writes(tmp_path, llama, datamodule, tokenizer):
    result = evaluate_model(
        Parrot(llama(), lambda prompt: "<script>alert(1)</script>", tokenizer), datamodule, tmp_path
    )
    assert isinstance(result, Evaluation)
    write_samples(result, tmp_path / "again.html")
    page = (tmp_path / "again.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_page_shows_who_said_what_and_how_many_rows_there_are(tmp_path):
    turns = [("system", "Be short."), ("user", "why?"), ("assistant", "because")]
    messages = json.dumps([{"role": role, "content": content} for role, content in turns])
    chat = EvaluationRow(0, (1,), "Be short.\nwhy?", "because", messages=messages)
    rows = [replace(chat, number=number) for number in range(3)] + [EvaluationRow(3, (1,), "as it is", "because")] * 4
    score = Measured(Score(0.5), len(rows), [0.5] * len(rows))
    result = TaskResult({"chrf": score}, rows, [["so"]] * len(rows))
    few = TaskResult({"chrf": Measured(Score(0.5), 3, [0.5] * 3)}, rows[:3], [["so"]] * 3)
    write_samples(Evaluation({"many": result, "few": few}, "test", {}), tmp_path / "page.html")
    many, few_rows = (tmp_path / "page.html").read_text().split('<h2 id="few">')
    assert "<pre>system: Be short.\nuser: why?</pre>" in many
    assert "<pre>as it is</pre>" in many
    assert "shown: the first 5, and 2 with the lowest chrf" in many
    assert "shown: the first 3</p>" in few_rows
