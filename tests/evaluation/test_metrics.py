"""Metrics against torchmetrics, against the papers' definitions, and as sums over rows."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score
from torchmetrics.functional.text import rouge_score, sacre_bleu_score, squad
from torchmetrics.text import CHRFScore

from lightning_coba.evaluation.metrics import (
    BLEU,
    METRICS,
    ChrF,
    MacroF1,
    PassAtK,
)

ANSWERS = ["The cat sat on the mat.", "a dog", "der Hund lief schnell durch den Park", "", "das Haus am See ist blau"]
GOLDS = [
    ["the cat is on the mat.", "There is a cat on the mat."],
    ["two dogs were here"],
    ["der Hund rannte schnell durch den Park", "ein Hund lief durch den Park"],
    ["nothing here"],
    ["das Haus am See ist blau"],
]


def value(metric, answers=ANSWERS, golds=GOLDS):
    metric.update(answers, golds)
    return float(metric.compute())


def test_chrf_counts_what_torchmetrics_counts():
    theirs = CHRFScore(n_word_order=0)
    for answer, gold in zip(ANSWERS[:3] + ANSWERS[4:], GOLDS[:3] + GOLDS[4:], strict=True):
        theirs.update([answer], [gold[:1]])  # of several right answers each takes the best by its own score
    ours = torch.tensor([ChrF().statistics(a, g[:1]) for a, g in zip(ANSWERS, GOLDS, strict=True) if a]).sum(0)
    kinds = ("preds", "target", "matching")
    expected = [float(theirs.metric_state[f"total_{kind}_char_{n}_grams"]) for kind in kinds for n in range(1, 7)]
    assert ours.tolist() == expected


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        # n = 1: P 2/2, R 2/3; n = 2: P 1/1, R 1/2; longer: none. So P 1, R 7/12, F2 = 5 P R / (4 P + R) = 7/11.
        ("ab", ["abc"], 7 / 11),
        ("a b", ["ab"], 1),
        ("ab", ["xy", "abc"], 7 / 11),
        ("ab", ["xy"], 0),
        ("", ["xy"], 0),
    ],
)
def test_chrf_by_hand(answer, golds, expected):
    assert value(ChrF(), [answer], [golds]) == pytest.approx(expected)


@pytest.mark.parametrize("tokenize", ["13a", "char"])
def test_bleu_is_that_of_torchmetrics(tokenize):
    expected = float(sacre_bleu_score(ANSWERS, GOLDS, tokenize=tokenize))
    assert 0 < expected < 1
    assert value(BLEU(tokenize)) == pytest.approx(expected, abs=1e-6)


def test_bleu_of_silence_is_zero():
    assert value(BLEU(), [""], [["something to say here"]]) == 0


def test_rouge_l_is_that_of_torchmetrics_where_its_words_are_ours():
    expected = rouge_score(ANSWERS, GOLDS, rouge_keys="rougeL", accumulate="best")["rougeL_fmeasure"]
    assert value(METRICS["rouge_l"]()) == pytest.approx(float(expected), abs=1e-6)
    assert value(METRICS["rouge_l"](), ["東京 タワー"], [["東京タワー"]]) == 1


def test_answers_are_scored_as_squad_scores_them():
    answers = ["The Eiffel Tower!", "in 1889", "Paris, of course", ""]
    golds = [["Eiffel tower"], ["1889", "the year 1889"], ["London"], ["no answer"]]
    expected = squad(
        [{"prediction_text": text, "id": str(i)} for i, text in enumerate(answers)],
        [{"answers": {"answer_start": [0] * len(g), "text": g}, "id": str(i)} for i, g in enumerate(golds)],
    )
    assert value(METRICS["answer_match"](articles=False), answers, golds) == pytest.approx(
        float(expected["exact_match"]) / 100
    )
    assert value(METRICS["token_f1"](articles=False), answers, golds) == pytest.approx(float(expected["f1"]) / 100)


def test_articles_count_where_they_are_words():
    assert (
        value(METRICS["answer_match"](articles=False), ["the an"], [["an"]]) == 0
    )  # nothing but articles stays as it is
    assert value(METRICS["answer_match"](), ["an"], [["a"]]) == 0
    assert value(METRICS["answer_match"](articles=False), ["a tower"], [["tower"]]) == 1


def test_macro_f1_is_that_of_torchmetrics():
    labels = ["yes", "no", "maybe"]
    golds, answers = ["yes", "no", "no", "maybe", "yes"], ["Yes", "yes", "no", "no", " yes"]
    right, given = ([labels.index(text.strip().lower()) for text in texts] for texts in (golds, answers))
    expected = multiclass_f1_score(torch.tensor(given), torch.tensor(right), num_classes=3, average="macro")
    assert value(MacroF1(labels), answers, [[gold] for gold in golds]) == pytest.approx(float(expected))


def test_an_answer_that_is_no_label_is_wrong_and_symbols_are_labels():
    assert value(METRICS["accuracy"](), ["+", "-", "perhaps"], [["+"], ["+"], ["yes"]]) == pytest.approx(1 / 3)
    # "yes" is found once of two times, and never wrongly: F1 2/3; "no" is neither there nor answered.
    assert value(MacroF1(["yes", "no"]), ["perhaps", "yes"], [["yes"], ["yes"]]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "gold", "match"),
    [
        ("so 5*5 = 25\n#### 1,025", "1 + 1 = 2\n#### 1025.0", True),
        ("3 + 4 = 7", "7", True),
        ("3 + 4 = 8", "3 + 4 = 7", False),
        ("#### 12 apples", "#### 12", True),
        ("x = -0.5", "x = -.5", True),
        ("about 1e3", "1000", True),
        ("no idea", "#### 0", False),
        ("#### $18.", "#### 18", True),
        ("#### -$18", "#### 18", False),
        ("#### -$18", "#### -18", True),
        ("= \u22127", "-7", True),
        ("#### 1000001", "#### 1000000", True),
        ("#### 1000002", "#### 1000000", False),
        ("#### 1e9999999", "#### 5", False),
    ],
)
def test_numbers_match_by_value(answer, gold, match):
    assert value(METRICS["numeric_match"](), [answer], [[gold]]) == match


def test_exact_match_sees_case_but_no_white_space():
    assert value(METRICS["exact_match"](), [" SELECT a\n", "select a"], [["SELECT  a"], ["SELECT a"]]) == 0.5


def test_pass_at_k_is_the_unbiased_estimate():
    # Of 4 answers 1 passes: any 2 of them hold it in 3 of 6 cases.
    assert PassAtK(2).of_verdicts([False, True, False, False]) == [0.5, 1]
    assert PassAtK(1).of_verdicts([False, True, False, False]) == [0.25, 1]
    assert PassAtK(3).of_verdicts([True, True, False]) == [1, 1]
    with pytest.raises(ValueError, match=r"`PassAtK.k` must be at most the number of answers, 1; got 2"):
        PassAtK(2).of_verdicts([True])


@pytest.mark.parametrize("name", METRICS)
def test_sums_of_parts_are_the_whole(name):
    make = (lambda: MacroF1([gold[0] for gold in GOLDS])) if name == "macro_f1" else METRICS[name]
    whole, parts = make(), make()
    whole.update(ANSWERS, GOLDS)
    for answer, gold in zip(ANSWERS, GOLDS, strict=True):
        parts.update([answer], [gold])
    assert float(whole.compute()) == pytest.approx(float(parts.compute()))
    rows = torch.tensor([whole.statistics(a, g) for a, g in zip(ANSWERS, GOLDS, strict=True)], dtype=torch.float64)
    assert float(whole.score(rows.sum(0))) == pytest.approx(float(whole.compute()))
    assert rows.shape == (len(ANSWERS), whole.size)
    assert whole.score(rows).shape == (len(ANSWERS),)
