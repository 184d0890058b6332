"""Where the data of several tasks may lie, as it is typed, and what the tasks are called together."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from lightning_coba.data.reading.hub import hub_id
from lightning_coba.data.reading.slug import slug

#: A folder, a file or a data set of the hub, or several of these.
Root = str | PathLike[str] | Sequence[str | PathLike[str]]

_MOST_IN_A_SUITE = 3


def typed_root(text: str) -> str | list[str]:
    """Return what was typed as the place of data; several are typed as ``[one,two]``, as Hydra has it.

    Example:
        >>> typed_root("data/nlu"), typed_root("[hf:openai/gsm8k:main, data/qa]")
        ('data/nlu', ['hf:openai/gsm8k:main', 'data/qa'])
    """
    if text.startswith("[") and text.endswith("]"):
        return [part.strip() for part in text[1:-1].split(",")]
    return text


def suite_of(root: Root) -> str:
    """Return what the tasks at a place are called together: the name of the folder or file, or the hub's.

    Example:
        >>> suite_of("data/nlu"), suite_of(["hf:openai/gsm8k:main", "hf:rajpurkar/squad"])
        ('nlu', 'gsm8k_main_squad')
    """
    if not isinstance(root, str | PathLike):
        names, more = [suite_of(one) for one in root], len(root) - _MOST_IN_A_SUITE
        return "_".join(names[:_MOST_IN_A_SUITE]) + (f"_and_{more}_more" if more > 0 else "")
    on_hub = hub_id(str(root))
    return slug(str(on_hub).rpartition("/")[2]) if on_hub else Path(root).resolve().name
