"""What the names of logged values tell: which are losses of tasks, and the pattern that finds them all."""

import re
from collections.abc import Iterable, Iterator, Sequence

LOADER_SUFFIX = re.compile(r"/dataloader_idx_\d+$")
#: What stands in a key where it is no task's: a value over all of them, or over time.
SUMMARIES = {"all", "average", "avg", "combined", "epoch", "macro", "mean", "micro", "overall", "step", "sum", "total"}
_VALIDATION = {"dev", "eval", "evaluation", "heldout", "val", "valid", "validation"}
_WORD = re.compile(r"[^/_.: -]+")


def plain_keys(logged: Iterable[str]) -> list[str]:
    """Return the keys in their order, without loader suffixes, and without ``X_step`` and ``X_epoch`` beside ``X``."""
    keys = dict.fromkeys(LOADER_SUFFIX.sub("", key) for key in logged)
    is_twin = (any(key.endswith(end) and key.removesuffix(end) in keys for end in ("_step", "_epoch")) for key in keys)
    return [key for key, twin in zip(keys, is_twin, strict=True) if not twin]


def is_summary(name: str) -> bool:
    """Whether a name that stands where tasks have theirs is more likely a summary of them."""
    return name.lower() in SUMMARIES


def loss_patterns(logged: Iterable[str], tasks: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return patterns such as ``val_{task}_loss`` -> the names they find, the pattern of most names first.

    Args:
        logged: Keys; only those with the word "loss", and without the word "train", are looked at.
        tasks: The names to look for; empty = whatever stands beside "loss" and "val" counts as one.

    Example:
        >>> loss_patterns(["val_qa_loss", "val_code_loss", "val_total_loss", "val_loss", "val_acc_qa"])
        {'val_{task}_loss': ['qa', 'code']}
    """
    found: dict[str, list[str]] = {}
    for key in plain_keys(logged):
        words = [word.lower() for word in _WORD.findall(key)]
        if "loss" in words and "train" not in words:
            for begin, end in _known_names(key, tasks) if tasks else _other_words(key):
                found.setdefault(f"{key[:begin]}{{task}}{key[end:]}", []).append(key[begin:end])
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _known_names(key: str, tasks: Sequence[str]) -> Iterator[tuple[int, int]]:
    for task in tasks:
        for match in re.finditer(rf"(?<![A-Za-z0-9]){re.escape(task)}(?![A-Za-z0-9])", key):
            yield match.span()


def _other_words(key: str) -> Iterator[tuple[int, int]]:
    """Yield where the words lie that are neither "loss" nor "val", if they are one piece and no summary."""
    words = list(_WORD.finditer(key))
    others = [place for place, word in enumerate(words) if word[0].lower() not in _VALIDATION | {"loss"}]
    if others and others[-1] - others[0] == len(others) - 1:
        begin, end = words[others[0]].start(), words[others[-1]].end()
        if not is_summary(key[begin:end]):
            yield begin, end
