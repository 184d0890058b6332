"""Answers made comparable: what counts as the same text, the same words, the same number."""

import re
import string
import unicodedata

#: Scripts that are written without spaces between words, in which a character is the unit: Thai and Lao, Burmese,
#: Khmer, kana, Han.
NO_SPACES = re.compile(
    r"[\u0E00-\u0EFF\u1000-\u109F\u1780-\u17FF\u3040-\u30FF\u31F0-\u31FF\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF"
    r"\U00020000-\U0003FFFF]"
)
_ENGLISH_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CURRENCY = re.compile(r"[$€£¥₹]")
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def words(text: str, articles: bool = True) -> list[str]:
    """Return the words of an answer as they are compared: without case and punctuation.

    The rules of SQuAD v1.1's evaluation (Rajpurkar et al. 2016: lower case, no punctuation, no articles, words by white
    space), with those of MLQA's (Lewis et al. 2020) for other languages: punctuation is also what Unicode calls so, and
    scripts without spaces are compared by the character. Ours: NFKC, so that wide and narrow forms are the same, and
    an answer of nothing but punctuation or articles is kept as it is.

    Args:
        text: an answer.
        articles: False leaves out a, an and the; for English only, since "a" or "an" is another word elsewhere.

    Example:
        >>> words("The Eiffel Tower.", articles=False), words("東京 Tower")
        (['eiffel', 'tower'], ['東', '京', 'tower'])
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(" " if character.isspace() else character for character in folded if not _is_punctuation(character))
    if not articles:
        plain = _ENGLISH_ARTICLES.sub(" ", plain)
    return NO_SPACES.sub(lambda character: f" {character[0]} ", plain).split() or folded.split()


def label(text: str) -> str:
    """Return an answer that is a label as it is compared: case and white space do not count.

    Example:
        >>> label(" Not  Entailed")
        'not entailed'
    """
    return collapsed(text).casefold()


def collapsed(text: str) -> str:
    r"""Return a text with each run of white space as one space, none around: for text in which case matters.

    Example:
        >>> collapsed(" SELECT  a\nFROM t ")
        'SELECT a FROM t'
    """
    return " ".join(text.split())


def final_number(text: str) -> float | None:
    r"""Return the number that a calculation ends with: behind the last ``####``, else the last ``=``, else the last.

    Commas between digits and signs of currency do not count; the long minus of print is a minus.

    Example:
        >>> final_number("5*5 = 25 dollars\n#### 1,025.0") == 1025, final_number("3 + 4 = 7"), final_number("none")
        (True, 7.0, None)
    """
    text = _CURRENCY.sub("", text).replace("\N{MINUS SIGN}", "-")
    for mark in ("####", "="):
        _, found, after = text.rpartition(mark)
        if found and (numbers := _NUMBER.findall(after)):
            return float(numbers[0].replace(",", ""))
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
