"""Which metrics the rows suggest, and which languages they are fitted to."""

import pytest

from lightning_coba.evaluation.choice import checked_metrics, chosen_metrics, is_english, metric_of, targets_of
from lightning_coba.evaluation.rows import EvaluationRow

TEXT = ("chrf", "bleu", "rouge_l", "exact_match")


def rows(golds, **fields):
    return [
        EvaluationRow(i, (1,), "prompt", gold, {name: values[i] for name, values in fields.items()})
        for i, gold in enumerate(golds)
    ]


@pytest.mark.parametrize(
    ("golds", "fields", "expected"),
    [
        (["Paris", "Rome"], {"answers": [["Paris"], ["Rome", "Roma"]]}, ("answer_match", "token_f1")),
        (["2+3 = 5\n#### 5", "#### 1,000"], {}, ("numeric_match",)),
        (["2 + 3 = 5", "9 - 1 = 8"], {"label": ["5", "8"]}, ("numeric_match",)),
        (["yes", "no", "no", "yes"], {"label": ["1", "0", "0", "1"]}, ("accuracy", "macro_f1")),
        (["n0 = 5.0\nanswer = n0 * 2", "answer = 3"], {"label": ["10", "4"]}, TEXT),
        (["a sentence", "another one"], {}, TEXT),
        (["x = 5", "y = 6"], {}, TEXT),  # code, not a calculation
    ],
)  # fmt: skip
def test_metrics_follow_from_the_rows(golds, fields, expected):
    assert chosen_metrics(rows(golds, **fields)) == expected


def test_the_choice_does_not_depend_on_how_many_rows_are_asked():
    known = ["yes", "no", "perhaps"] * 10
    assert chosen_metrics(rows(["yes", "no", "perhaps"])) == TEXT
    assert chosen_metrics(rows(["yes", "no", "perhaps"]), known) == ("accuracy", "macro_f1")
    assert chosen_metrics(rows(["one"] * 8), [f"text {i}" for i in range(30)]) == TEXT


def test_answers_may_have_the_form_of_squad_on_the_hub():
    row = rows(["Paris"], answers=[{"text": ["Paris", "paris"], "answer_start": [0, 0]}])[0]
    assert targets_of(row) == ["Paris", "paris"]
    assert targets_of(rows(["Paris"], answers=[None])[0]) == ["Paris"]


def test_questions_without_an_answer_are_questions():
    squad_2 = rows(["Paris", "none", "none"], answers=[{"text": ["Paris"]}, {"text": []}, {"text": []}])
    assert chosen_metrics(squad_2) == ("answer_match", "token_f1")
    assert targets_of(squad_2[1]) == ["none"]


def test_english_is_told_by_the_column_or_else_by_the_name():
    assert is_english("qa", rows(["x"], lang=["en"]))
    assert is_english("en", rows(["x"]))
    assert not is_english("en", rows(["x"], lang=["sw"]))
    assert not is_english("qa", rows(["x"]))
    assert metric_of("token_f1", "en", rows(["x"])).statistics("the x", ["x"]) == [1, 1]
    assert metric_of("token_f1", "sw", rows(["x"])).statistics("the x", ["x"]) == [pytest.approx(2 / 3), 1]


def test_bleu_counts_characters_where_there_are_no_spaces():
    assert float(_bleu(["東京タワーへ行く"], "東京タワーへ行く")) == 1
    assert float(_bleu(["a b c"], "a b c")) == 0  # three words have no 4-gram


def _bleu(golds, answer):
    metric = metric_of("bleu", "task", rows(golds))
    metric.update([answer], [golds])
    return metric.compute()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"nope": ["chrf"]}, r"`evaluate.metrics` must name tasks of the run \(code, qa\); got 'nope'"),
        ({"qa": ["blue"]}, r"must be among accuracy, .*rouge_l; got 'blue' for task 'qa'"),
        ({"qa": []}, r"got 'none' for task 'qa'"),
    ],
)
def test_wrong_names_are_refused(wanted, message):
    with pytest.raises(ValueError, match=message):
        checked_metrics(wanted, ["code", "qa"])
