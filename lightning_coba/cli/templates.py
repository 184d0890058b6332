r"""Templates on a command line, which are typed as they read: ``data.prompt='{question}\n'``."""

import re
from collections.abc import Sequence

_TEMPLATE = re.compile(r"(data\.(?:prompt|completion))=(.*)", re.DOTALL)


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
    if not override or "{" not in override[2] or override[2][0] in "\"'":
        return argument
    name, template = override.groups()
    escaped = unescaped(template).replace('"', '\\"')
    return f'{name}="{escaped}"'
