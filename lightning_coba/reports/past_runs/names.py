"""What the name of a column says: the held-out loss of a task, a count of steps, or something else."""

import re
from collections.abc import Iterable, Mapping

from lightning_coba.errors import UserError

#: Columns that count records, the surest first; others are left out as times.
STEP_COLUMNS = (
    "trainer/global_step", "train/global_step", "global_step", "step", "_step", "optimizer_step", "iteration", "iter",
    "record", "epoch",
)  # fmt: skip
#: Names of one loss over all tasks.
OF_ALL_TASKS = frozenset({"loss", "val_loss", "eval_loss", "valid_loss", "validation_loss"})
#: Names that stand for all tasks together.
AGGREGATES = frozenset({"mean", "avg", "average", "total", "sum", "all", "overall", "macro", "micro"})
#: Names of columns of numbers that are no task.
_NO_TASKS = frozenset({
    "time", "timestamp", "wall_time", "wall time", "runtime", "date", "created_at", "relative time (process)",
    "relative time (wall)", "index", "unnamed: 0", "seed", "lr", "learning_rate", "grad_norm", "total_flos", "tokens",
    "num_input_tokens_seen", "samples",
})  # fmt: skip
#: Words of a name that make it something other than a loss.
_SCORE = re.compile(
    r"(?:^|[^a-z0-9])(?:acc|accuracy|f1|bleu|rouge[a-z0-9]*|em|exact_match|ppl|perplexity|score|auc|runtime|"
    r"(?:samples|steps)_per_second)(?:$|[^a-z0-9])",
    re.IGNORECASE,
)
_LOSS_WORD = re.compile(r"(?:^|[^a-z0-9])(?:loss|nll)(?:$|[^a-z0-9])", re.IGNORECASE)
_TRAINING = re.compile(r"(?:^|[/_.:-])train(?:ing)?(?:$|[/_.:-])", re.IGNORECASE)
_LOADER = re.compile(r"/dataloader_idx_\d+$")  # Lightning's, where there are several validation loaders
_HELD_OUT = r"(?:val|valid|validation|eval|evaluation|dev|held_?out)"
_BY, _LOSS, _TASK = r"[/_.:-]", r"(?:loss|nll|cross_entropy)", r"(?P<task>.+?)"
#: How trackers and trainers name the held-out loss of a task, such as val_loss/code, eval_code_loss, code/val_loss.
_FAMILIES = tuple(
    re.compile(_BY.join(words), re.IGNORECASE)
    for words in (
        (_HELD_OUT, _LOSS, _TASK), (_LOSS, _HELD_OUT, _TASK), (_HELD_OUT, _TASK, _LOSS), (_TASK, _HELD_OUT, _LOSS),
    )
)  # fmt: skip


def held_out_families(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return names of held-out losses by the pattern that they share: ``{pattern: {task: name}}``.

    Example:
        >>> held_out_families(["val_loss/code", "val_loss/qa", "train_loss/qa", "val_loss"])
        {'val_loss/{task}': {'code': 'val_loss/code', 'qa': 'val_loss/qa'}}
    """
    families: dict[str, dict[str, str]] = {}
    for name in names:
        found = next((match for family in _FAMILIES if (match := family.fullmatch(name))), None)
        if found:
            pattern = f"{name[: found.start('task')]}{{task}}{name[found.end('task') :]}"
            families.setdefault(pattern, {})[found["task"]] = name
    return {pattern: _without_suffixes(group) for pattern, group in families.items()}


def family(names: Iterable[str], pattern: str) -> dict[str, str]:
    """Return the names that a pattern such as ``"val_loss/{task}"`` fits, by task.

    Raises:
        ValueError: The pattern does not hold ``{task}`` once.
    """
    if pattern.count("{task}") != 1:
        raise UserError(
            f"`read_losses.pattern` must hold {{task}} once; got {pattern!r}.",
            "Give how a task's losses are called, such as 'val_loss/{task}'.",
        )
    before, after = map(re.escape, pattern.split("{task}"))
    matches = {name: re.fullmatch(f"{before}(.+){after}", name) for name in names}
    return {match[1]: name for name, match in matches.items() if match}


def is_held_out(name: str) -> bool:
    """Return whether a name is one of held-out rows, such as "valid"."""
    return bool(re.fullmatch(_HELD_OUT, name.strip(), re.IGNORECASE))


def is_training(name: str) -> bool:
    """Return whether a name says that it is of training steps."""
    return bool(_TRAINING.search(name))


def says_loss(name: str) -> bool:
    """Return whether a name has the word "loss" in it."""
    return bool(_LOSS_WORD.search(name))


def may_be_task(name: str) -> bool:
    """Return whether a column may be called after a task alone: its name says nothing else.

    Example:
        >>> [name for name in ("code", "lr", "code_acc", "train_loss", "step") if may_be_task(name)]
        ['code']
    """
    plain = name.strip().lower()
    known = plain in _NO_TASKS | OF_ALL_TASKS or plain in STEP_COLUMNS or plain.startswith("_")
    return not (known or is_training(plain) or _SCORE.search(plain))


def _without_suffixes(group: Mapping[str, str]) -> dict[str, str]:
    """Return task -> name without what Lightning adds to a task: its loader, and "_epoch" beside a "_step"."""
    bare = {_LOADER.sub("", task): name for task, name in group.items()}
    found = bare if len(bare) == len(group) else dict(group)  # shorter where two loaders logged one name
    for task in [name.removesuffix("_epoch") for name in found if name.endswith("_epoch")]:
        if f"{task}_step" in found:
            del found[f"{task}_step"]
            found[task] = found.pop(f"{task}_epoch")
    return found
