"""Names of tasks that come from folders, files, columns and ids, which may hold any character."""

import re
import unicodedata
from collections.abc import Sequence

#: What a task may be called: neither "..", nor what a command takes for an option.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_.-]+")


def slug(text: str) -> str:
    """Return a text as the name of a task: without accents, ``_`` for what a name may not have.

    Example:
        >>> slug("my task (v2)"), slug("données"), slug("qa"), slug("数学")
        ('my_task_v2', 'donnees', 'qa', 'task')
    """
    if NAME.fullmatch(text):
        return text
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return _FORBIDDEN.sub("_", "".join(letters)).strip("_.-") or "task"


def slugs(texts: Sequence[str]) -> list[str]:
    """Return different names of tasks, in the order of the texts.

    A text that is a name stays as it is. Of others that lead to one name, the first in alphabetical order gets it, and
    the next ones are numbered from 2.

    Example:
        >>> slugs(["my task", "my-task", "my_task", "my task!"])
        ['my_task_2', 'my-task', 'my_task', 'my_task_3']
    """
    by_name = {}
    for place in sorted(range(len(texts)), key=lambda place: (not NAME.fullmatch(texts[place]), texts[place])):
        base = name = slug(texts[place])
        number = 1
        while name in by_name:
            number += 1
            name = f"{base}_{number}"
        by_name[name] = place
    return sorted(by_name, key=by_name.__getitem__)
