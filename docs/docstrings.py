"""Docstrings for the site: the Sphinx marks in them become Markdown before mkdocstrings renders them."""

import re
from textwrap import dedent
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|data):`~?([\w.]+)`")
INLINE_MATH = re.compile(r":math:`([^`]+)`")
MATH_LINE = re.compile(r"^\.\. math:: (.+)$", re.MULTILINE)
MATH_BLOCK = re.compile(r"^\.\. math::\n((?:    .*\n|\n)+)", re.MULTILINE)
#: A bold heading with an indented list under it, as in "**Differs from** the paper:".
BOLD_LIST = re.compile(r"^(\*\*.+(?:\n\S.*)*:)\n((?:    .*\n?)+)", re.MULTILINE)
#: Doctests of a module's first lines; those of "Examples" griffe shows as code.
DOCTEST = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrite every docstring of a package once all of it is loaded."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Find the package's public names, then rewrite."""
        loader.resolve_aliases(external=False)  # while every module is where the imports say
        owners = objects_in(pkg)
        for owner in owners:
            if isinstance(owner, griffe.Module):
                if "lazy_loader" in owner.imports:  # what the package exports is what its stub imports
                    owner.exports = sorted(owner.imports.keys() - {"lazy_loader"})
                prefer_contents(owner)
            elif isinstance(owner, griffe.Attribute) and not owner.docstring and (text := comment_above(owner)):
                owner.docstring = griffe.Docstring(text, parent=owner)
        public = public_names(pkg)
        for owner in owners:
            if owner.docstring:
                owner.docstring.value = as_markdown(owner.docstring.value, public)


def prefer_contents(package: griffe.Module) -> None:
    """Let a name that is exported and that of a module too mean what is in that module, as at run time."""
    for name in map(str, package.exports or ()):
        member = package.members.get(name)
        if isinstance(member, griffe.Module) and name in member.members:
            package.members[name] = griffe.Alias(name, member.members[name], parent=package)


def comment_above(attribute: griffe.Attribute) -> str:
    """Return the ``#:`` lines above an attribute, in which this package says what it is."""
    lines = attribute.lines_collection[attribute.filepath]
    start = end = (attribute.lineno or 1) - 1
    while start and lines[start - 1].strip().startswith("#:"):
        start -= 1
    return "\n".join(line.strip().removeprefix("#:").strip() for line in lines[start:end])


def public_names(package: griffe.Module) -> dict[str, str]:
    """Return short name -> the path under which it is documented: that in a part of the package, where it has one."""
    modules = [package, *(member for member in package.members.values() if isinstance(member, griffe.Module))]
    return {
        str(name): f"{module.path}.{name}"
        for module in modules
        for name in module.exports or ()
        if str(name) in module.members
    }


def objects_in(owner: griffe.Object) -> list[griffe.Object]:
    """Return an object and all that is defined in it."""
    own = [member for member in owner.members.values() if isinstance(member, griffe.Object)]
    return [owner, *(inner for member in own for inner in objects_in(member))]


def as_markdown(text: str, public: dict[str, str]) -> str:
    """Return a docstring with roles as links, formulas between dollars and lists that Markdown recognises."""
    text = INLINE_MATH.sub(r"$\1$", text)
    text = MATH_LINE.sub(r"\n$$\n\1\n$$\n", text)
    text = MATH_BLOCK.sub(lambda match: f"$$\n{_aligned(dedent(match[1]).strip())}\n$$\n\n", text)
    text = BOLD_LIST.sub(lambda match: f"{match[1]}\n\n{dedent(match[2])}", text)
    text = DOCTEST.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", text)
    text = EXAMPLE.sub("Examples:", text)
    return ROLE.sub(lambda match: _link(match[1], public), text)


def _aligned(formula: str) -> str:
    return rf"\begin{{align*}} {formula} \end{{align*}}" if "&" in formula else formula


def _link(target: str, public: dict[str, str]) -> str:
    """Return a link to a public name or a method of one; what is not public is shown and not linked."""
    first, *rest = target.removeprefix("lightning_coba.").split(".")
    for start, members in ((first, rest), (rest[0] if rest else "", rest[1:]), (rest[-1] if rest else "", [])):
        if start in public and start[0].isupper() | (not members):
            path = ".".join([public[start], *members])
            return f"[`{'.'.join([start, *members])}`][{path}]"
    return f"`{target.rpartition('.')[2] if target.startswith('lightning_coba') else target}`"
