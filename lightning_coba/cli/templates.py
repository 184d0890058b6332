r"""What is typed as it reads: templates, ``data.prompt='{question}\n'``, and names of tasks, ``data.only=code,qa``."""

import re
from collections.abc import Sequence

_TEMPLATE = re.compile(r"(\+{0,2}data\.(?:prompt|completion))=(.*)", re.DOTALL)
_NAMES = re.compile(r"(\+{0,2}data\.only)=([\w.,-]+)")
#: Of these Hydra takes each for half of one, and no others.
_BACKSLASHES = re.compile(r"(\\+)(?=\"|\Z)")


def unescaped(text: str) -> str:
    r"""Return a template in which ``\n`` and ``\t`` are what they mean: a shell passes them on as they are typed."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def quoted_templates(arguments: Sequence[str]) -> list[str]:
    r"""Return the arguments of a command with templates in quotes, and names of tasks in brackets.

    Hydra takes bare braces for a dict, and names with commas for the values of a sweep: there each name is a run.

    Example:
        >>> quoted_templates(["seed=1", r"data.prompt={question}\n", "data.only=code,qa"])
        ['seed=1', 'data.prompt="{question}\n"', 'data.only=[code,qa]']
        >>> quoted_templates(["-m", "data.only=code,qa"])
        ['-m', 'data.only=[code],[qa]']
    """
    is_sweep = bool({"-m", "--multirun"} & {*arguments})
    return [_in_brackets(_quoted(argument), "],[" if is_sweep else ",") for argument in arguments]


def _in_brackets(argument: str, between: str) -> str:
    named = _NAMES.fullmatch(argument)
    if not named or named[2] == "null":
        return argument
    return f"{named[1]}=[{between.join(filter(None, named[2].split(',')))}]"


def _quoted(argument: str) -> str:
    override = _TEMPLATE.fullmatch(argument)
    if not override or "{" not in override[2]:
        return argument
    name, template = override[1], unescaped(override[2])
    if template[0] in "\"'":  # quoted as Hydra asks for it
        return f"{name}={template}"
    escaped = _BACKSLASHES.sub(r"\1\1", template).replace('"', '\\"')
    return f'{name}="{escaped}"'
