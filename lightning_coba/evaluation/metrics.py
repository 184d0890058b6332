"""Metrics of generated text as sums over rows, so that rows can be drawn again and ranks can add up.

Each is a `torchmetrics.Metric` whose one state is a vector of sums: `statistics` gives a row's part of it, `score`
makes the metric of any sums. So the interval of a corpus metric (chrF, BLEU) is that of the corpus metric itself.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from math import comb, isclose
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import rouge_score
from torchmetrics.text import SacreBLEUScore

from lightning_coba.errors import UserError
from lightning_coba.evaluation.normalisation import collapsed, final_number, label, words

#: Numbers that differ by less, relatively (below 1: absolutely), are the same.
NUMBER_TOLERANCE = 1e-6


class TextMetric(Metric):
    """A metric of texts that is a function of sums over rows; abstract.

    Attributes:
        totals: the sums, float64 ``[S]``.
    """

    full_state_update = False
    higher_is_better = True
    size = 2
    totals: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("totals", torch.zeros(self.size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, preds: Sequence[str], target: Sequence[Sequence[str]]) -> None:
        """Add rows.

        Args:
            preds: the answers.
            target: for each, the right ones, at least one.
        """
        for answer, golds in zip(preds, target, strict=True):
            self.totals += torch.tensor(self.statistics(answer, golds), dtype=torch.float64).to(self.totals)

    def compute(self) -> Tensor:
        """Return the metric of all rows, in [0, 1]; NaN of none."""
        return self.score(self.totals)

    def statistics(self, answer: str, golds: Sequence[str]) -> list[float]:
        """Return what a row adds to the sums, ``[S]``."""
        raise NotImplementedError

    def score(self, totals: Tensor) -> Tensor:
        """Return the metric of sums, ``[..., S]`` -> ``[...]``: by default the mean, of (sum, rows)."""
        return totals[..., 0] / totals[..., 1]


class BestMatch(TextMetric):
    """Mean over the rows of how well an answer matches the right one that it matches best.

    Args:
        match: (answer, right answer) -> share in [0, 1].
        **options: arguments of ``match``.
    """

    def __init__(self, match: Callable[..., float], **options: Any) -> None:
        super().__init__()
        self.match = partial(match, **options)

    def statistics(self, answer: str, golds: Sequence[str]) -> list[float]:
        """Return (best match, 1)."""
        return [max(float(self.match(answer, gold)) for gold in golds), 1]


def exact_match(answer: str, gold: str) -> bool:
    """Whether an answer is the right one, white space aside. For code, SQL and formulas."""
    return collapsed(answer) == collapsed(gold)


def accuracy(answer: str, gold: str) -> bool:
    """Whether an answer is the right label, case and white space aside."""
    return label(answer) == label(gold)


def answer_match(answer: str, gold: str, articles: bool = True) -> bool:
    """Whether the words of an answer are those of the right one; see `words`. For questions."""
    return words(answer, articles) == words(gold, articles)


def token_f1(answer: str, gold: str, articles: bool = True) -> float:
    """Return F1 of an answer's words against those of the right one, as SQuAD defines it; see `words`."""
    mine, right = words(answer, articles), words(gold, articles)
    if not mine or not right:  # as in SQuAD: nothing is like nothing
        return float(mine == right)
    return 2 * (Counter(mine) & Counter(right)).total() / (len(mine) + len(right))


def numeric_match(answer: str, gold: str) -> bool:
    """Whether an answer ends with the right number; see `final_number`."""
    mine, right = final_number(answer), final_number(gold)
    if mine is None or right is None:
        return False
    return isclose(mine, right, rel_tol=NUMBER_TOLERANCE, abs_tol=NUMBER_TOLERANCE)


def rouge_l(answer: str, gold: str) -> float:
    """Return F1 of the longest common subsequence of words (torchmetrics' ROUGE-L, with the words of `words`)."""
    # Its own rule keeps a-z and 0-9 alone, which leaves nothing of most languages.
    options: dict[str, Any] = {"normalizer": str, "tokenizer": words, "rouge_keys": "rougeL"}
    return float(rouge_score(answer, gold, **options)["rougeL_fmeasure"])


class BLEU(TextMetric):
    """Corpus BLEU-4 with the tokenizer of torchmetrics' SacreBLEUScore.

    Args:
        tokenize: ``"13a"`` (sacreBLEU's default) for text with spaces; ``"char"`` where the right answers are written
            without, so that no dictionary of a language is needed.
    """

    size = 10  # lengths of answers and right ones; for n = 1 to 4, n-grams that match and n-grams

    def __init__(self, tokenize: Any = "13a", **options: Any) -> None:
        super().__init__(**options)
        self.bleu = SacreBLEUScore(tokenize=tokenize)

    def statistics(self, answer: str, golds: Sequence[str]) -> list[float]:
        """Return the counts of a row."""
        self.bleu.reset()
        self.bleu.update([answer], [list(golds)])
        counts = (self.bleu.preds_len, self.bleu.target_len, self.bleu.numerator, self.bleu.denominator)
        return torch.cat([count.reshape(-1) for count in counts]).tolist()

    def score(self, totals: Tensor) -> Tensor:
        """Return the brevity penalty times the geometric mean of the four precisions."""
        written, wanted, matching, all_of_them = totals[..., 0], totals[..., 1], totals[..., 2:6], totals[..., 6:]
        precision = (matching / all_of_them.clamp(min=1)).log().mean(-1).exp()
        # No word at all: the penalty is 0, not the 0/0 of the formula.
        brevity = torch.where(written > 0, (1 - wanted / written.clamp(min=1)).clamp(max=0).exp(), 0.0)
        return brevity * precision


class ChrF(TextMetric):
    """Corpus chrF (Popović 2015): F2 of the character n-grams up to 6, white space aside; sacreBLEU's defaults.

    **Differs from** torchmetrics' CHRFScore(n_word_order=0), which

    - averages F2 over all six lengths, so that an answer of two characters cannot reach 1;
    - leaves the right answers to rows without a common character out of the corpus;
    - takes a hundred times as long.
    """

    size = 18  # for n = 1 to 6: n-grams of the answer, of the right one, matching
    order, beta = 6, 2

    def statistics(self, answer: str, golds: Sequence[str]) -> list[float]:
        """Return the counts against the right answer that is most alike."""
        mine = self._ngrams(answer)
        candidates = [self._counts(mine, self._ngrams(gold)) for gold in golds]
        return max(candidates, key=lambda counts: float(self.score(torch.tensor(counts, dtype=torch.float64))))

    def score(self, totals: Tensor) -> Tensor:
        """Return F2 of precision and recall, each averaged over the lengths of n-grams that both sides have."""
        written, wanted, matching = totals.unflatten(-1, (3, self.order)).unbind(-2)
        there = (written > 0) & (wanted > 0)
        # Where a length is missing on one side, nothing matches.
        precision, recall = (
            (matching / count.clamp(min=1)).sum(-1) / there.sum(-1).clamp(min=1) for count in (written, wanted)
        )
        weight = self.beta**2
        return (1 + weight) * precision * recall / (weight * precision + recall).clamp(min=1e-16)

    def _ngrams(self, text: str) -> list[Counter[str]]:
        characters = "".join(text.split())
        return [
            Counter(characters[i : i + n] for i in range(len(characters) - n + 1)) for n in range(1, self.order + 1)
        ]

    def _counts(self, mine: list[Counter[str]], gold: list[Counter[str]]) -> list[float]:
        matching = [(a & b).total() for a, b in zip(mine, gold, strict=True)]
        return [*(n.total() for n in mine), *(n.total() for n in gold), *matching]


class MacroF1(TextMetric):
    """Mean over the labels of each label's F1; an answer that is no label counts against the right one alone.

    Args:
        labels: to take the mean over; those that neither occur nor are answered are left out of it.
    """

    def __init__(self, labels: Sequence[str], **options: Any) -> None:
        self.labels = {name: number for number, name in enumerate(dict.fromkeys(map(label, labels)))}
        self.size = 3 * len(self.labels)
        super().__init__(**options)

    def statistics(self, answer: str, golds: Sequence[str]) -> list[float]:
        """Return for each label whether it is right, answered, and both."""
        numbers = [self.labels.get(label(text)) for text in (golds[0], answer)]
        right, answered = ([float(number == one) for one in range(len(self.labels))] for number in numbers)
        return [*right, *answered, *(a * b for a, b in zip(right, answered, strict=True))]

    def score(self, totals: Tensor) -> Tensor:
        """Return the mean of 2 both / (right + answered)."""
        right, answered, both = totals.unflatten(-1, (3, -1)).unbind(-2)
        there = right + answered > 0
        return (2 * both / (right + answered).clamp(min=1)).sum(-1) / there.sum(-1)


class PassAtK(TextMetric):
    """Estimated share of rows of which one of k answers passes its tests (Chen et al. 2021, equation 1).

    It sees verdicts, not texts: `statistics` takes how many of n answers passed.

    Args:
        k: answers that may be tried.
    """

    def __init__(self, k: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.k = k

    def of_verdicts(self, passed: Sequence[bool]) -> list[float]:
        """Return (1 - C(n - c, k) / C(n, k), 1) of a row with c passes among n answers.

        Raises:
            ValueError: there are fewer than k answers.
        """
        if len(passed) < self.k:
            raise UserError(f"`PassAtK.k` must be at most the number of answers, {len(passed)}; got {self.k}.")
        return [1 - comb(len(passed) - sum(passed), self.k) / comb(len(passed), self.k), 1]


#: Name on the command line and in files -> the metric. MacroF1 needs labels; BLEU and matches of words, the language.
METRICS: dict[str, Callable[..., TextMetric]] = {
    "accuracy": partial(BestMatch, accuracy),
    "macro_f1": MacroF1,
    "exact_match": partial(BestMatch, exact_match),
    "answer_match": partial(BestMatch, answer_match),
    "token_f1": partial(BestMatch, token_f1),
    "numeric_match": partial(BestMatch, numeric_match),
    "chrf": ChrF,
    "bleu": BLEU,
    "rouge_l": partial(BestMatch, rouge_l),
}
