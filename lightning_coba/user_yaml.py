"""YAML that others wrote: parsed, or refused with the file and the line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_coba.errors import UserError
from lightning_coba.user_files import MOST_NESTED, read_text, reason

#: Values of a file with all its aliases written out.
MOST_VALUES = 100_000
_CURE = "Correct the line: indent with spaces, and begin all entries of a list or mapping in the same column."


def read_yaml(file: Path) -> Any:
    """Return what a YAML file says, in plain dicts, lists and scalars.

    Raises:
        UserError: It cannot be read, is no YAML, asks for objects, or repeats itself without end.
    """
    node = yaml_nodes(file)
    if node is None:
        return None
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise yaml_error(error, file) from None
    except (ValueError, TypeError, OverflowError, AttributeError) as error:  # a date of the 45th, say
        raise UserError(f"a value cannot be read ({reason(error)}).", "Put it in quotes.", where=str(file)) from None
    finally:
        loader.dispose()


def yaml_nodes(file: Path) -> yaml.Node | None:
    """Return a YAML file as nodes, which know their lines; None for an empty file.

    Every key stands there once, nothing holds itself, and written out it is not endless.
    """
    try:
        node = yaml.compose(read_text(file), yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise yaml_error(error, file) from None
    except RecursionError:
        raise _too_deep(file) from None
    if node is not None:
        _size(node, file, [], {})
        _refuse_double_keys(node, file)
    return node


def place_in(node: yaml.Node | None, keys: Sequence[str]) -> int | None:
    """Return the line of a setting, counted from 1; None where it is not there.

    Args:
        node: Of the file; see `yaml_nodes`.
        keys: The path to the setting, such as ``["trainer", "max_steps"]``.
    """
    line = None
    for key in keys:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((name, value) for name, value in node.value if name.value == key), None)
        elif isinstance(node, yaml.SequenceNode) and key.isdecimal() and int(key) < len(node.value):
            found = (node.value[int(key)],) * 2
        if found is None:
            return None
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    for entry in node.value if isinstance(node, yaml.CollectionNode) else ():
        yield from entry if isinstance(entry, tuple) else (entry,)


def _size(node: yaml.Node, file: Path, above: list[yaml.Node], known: dict[int, int]) -> int:
    """Return how many values a node has with all aliases written out; each node is looked at once."""
    if id(node) not in known:
        if any(node is one for one in above):
            raise UserError("an alias is inside its own anchor.", "Remove it.", where=_at(node, file))
        if len(above) > MOST_NESTED:
            raise _too_deep(file)
        size = 1 + sum(_size(child, file, [*above, node], known) for child in _children(node))
        if size > MOST_VALUES:
            raise UserError(
                f"written out with its aliases, the file has more than {MOST_VALUES:,} values.",
                "Use fewer aliases.",
                where=_at(node, file),
            )
        known[id(node)] = size
    return known[id(node)]


def _refuse_double_keys(root: yaml.Node, file: Path) -> None:
    seen, left = {id(root)}, [root]
    while left:
        node = left.pop()
        names = set()
        for name, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(name, yaml.ScalarNode) and name.value != "<<" and name.value in names:
                told = f"the key {name.value!r} is there twice."
                raise UserError(told, "Leave one of them out.", where=_at(name, file))
            names.add(name.value if isinstance(name, yaml.ScalarNode) else id(name))
        new = [child for child in _children(node) if id(child) not in seen]
        seen |= set(map(id, new))
        left += new


def _at(node: yaml.Node, file: Path) -> str:
    return f"{file}:{node.start_mark.line + 1}"


def _too_deep(file: Path) -> UserError:
    return UserError(f"it nests more than {MOST_NESTED} deep.", "Flatten it.", where=str(file))


def yaml_error(error: yaml.YAMLError, file: Path) -> UserError:
    """Return what is wrong with a file where a YAML library has refused it."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{file}:{mark.line + 1}" if mark else str(file)
    if isinstance(error, yaml.reader.ReaderError):
        return UserError(
            f"the character {error.character!r:.20} is not allowed in YAML.", "Delete the character.", where
        )
    told = " ".join(str(getattr(error, "problem", None) or "it cannot be parsed").split())
    return UserError(f"this is not valid YAML ({told}).", _CURE, where=where)
