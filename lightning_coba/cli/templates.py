r"""Templates on a command line, which are typed as they read: ``data.prompt='{question}\n'``."""

import re
from collections.abc import Sequence

_TEMPLATE = re.compile(r"(\+{0,2}data\.(?:prompt|completion))=(.*)", re.DOTALL)
#: Of these Hydra takes each for half of one, and no others.
_BACKSLASHES = re.compile(r"(\\+)(?=\"|\Z)")


def unescaped(text: str) -> str:
    r"""Return a template in which ``\n`` and ``\t`` are what they mean: a shell passes them on as they are typed."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def quoted_templates(arguments: Sequence[str]) -> list[str]:
    r"""Return the arguments of a command with templates in quotes: Hydra takes bare braces for a dict.

    Example:
        >>> quoted_templates(["seed=1", r"data.prompt={question}\n", "data.completion=answer"])
        ['seed=1', 'data.prompt="{question}\n"', 'data.completion=answer']
    """
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    override = _TEMPLATE.fullmatch(argument)
    if not override or "{" not in override[2]:
        return argument
    name, template = override[1], unescaped(override[2])
    if template[0] in "\"'":  # quoted as Hydra asks for it
        return f"{name}={template}"
    escaped = _BACKSLASHES.sub(r"\1\1", template).replace('"', '\\"')
    return f'{name}="{escaped}"'
