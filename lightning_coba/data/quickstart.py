"""Six real tasks for a demo without downloads: installed packages, read as text and never imported."""

import ast
import functools
import hashlib
import importlib.util
import os
import re
import sys
import sysconfig
import textwrap
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lightning_coba.data.reading.task import Task
from lightning_coba.errors import MissingFileError, MissingPackageError

_LANGUAGES = {"de": "German", "fr": "French", "sw": "Swahili", "lb": "Luxembourgish"}
_MOST_ENGLISH_CHARACTERS = 199
_MOST_CODE_ROWS = {
    "docstring": {"train": 840, "validation": 180, "test": 180},
    "body": {"train": 630, "validation": 135, "test": 135},
}
_MOST_FUNCTION_CHARACTERS = 400  # about 100 tokens: the demo trains on two CPU cores
_FEWEST_BODY_CHARACTERS = 24  # "pass" and "return False" teach nothing
_MOST_FUNCTIONS_PER_FILE = 25  # else a few long modules would be the task
_SKIPPED = (
    {"dist-packages", "site-packages", "test", "tests", "idlelib", "turtledemo", "encodings", "pydoc_data"}
    | {"distutils", "lib2to3", "ensurepip", "msilib"}  # not part of every Python or system
    | {"tkinter", "turtle.py"}  # hundreds of near-identical wrappers, often left out too
)

# A singular entry of a .po file. Adjacent quoted lines are one string, in PO as in Python.
_ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n?)+)', re.MULTILINE)
_NOT_WANTED_ENTRY = re.compile(r"^(?:msgctxt |#,.*\bfuzzy\b)", re.MULTILINE)
# Every dialect of placeholder, markup, line breaks and gettext's context mark.
_NOT_PLAIN = re.compile(r"[%{}<>\n\r\x04]")
_SENTENCE = re.compile(r"[A-Z][a-z]+ .*?\.(?= [A-Z]|$)")
_SUMMARY_CHARACTERS = range(24, 141)
_NOT_A_SUMMARY = re.compile(r"obsolete|^see |see also|same as|like |internal|stub|>>>|->", re.IGNORECASE)
_NOT_EXEMPLARY = re.compile(r"deprecat|todo|xxx", re.IGNORECASE)

_Splits = dict[str, list[dict[str, str]]]


class _Function(NamedTuple):
    path: str  # relative to the standard library, with forward slashes
    line: int
    signature: str  # with its decorators
    docstring: str  # as in the source, quotes included
    summary: str  # the docstring's first sentence
    body: str


@functools.cache  # it parses some hundred modules, and each task of the demo asks for its rows
def quickstart_rows() -> dict[str, dict[str, list[dict[str, str]]]]:
    """Read the six quickstart tasks from the installed Django and the running Python.

    ``de``, ``fr``, ``sw`` and ``lb`` translate Django's interface strings; they are split by the English
    string, alike in all languages. ``docstring`` says what a function of the standard library does, ``body``
    writes one from its signature and docstring; both are split by source file, alike. So what one task is
    tested on, no other was trained on. The sizes are left unequal, as the sources make them.

    The same Django and Python give the same rows in the same order; the first call takes some four seconds.
    Callers share the result: copy it before changing it.

    Returns:
        Task name -> split (``train``, ``validation``, ``test``) -> rows of ``prompt`` (ends with a newline),
        ``completion`` (no white space at its end) and ``id`` (``<task>:<English string or file:line>``).

    Raises:
        ModuleNotFoundError: Django is not installed.
        FileNotFoundError: Django or Python is installed without the files that are read here.
    """
    django = _django_folder()
    tasks = {code: _translation_rows(code, _pairs(django, code)) for code in _LANGUAGES}
    functions = list(_distinct(_functions(Path(sysconfig.get_paths()["stdlib"]))))
    tasks |= {task: _code_rows(task, functions) for task in _MOST_CODE_ROWS}
    for task, splits in tasks.items():
        if not all(splits.values()):
            cure = f"Use a Python that ships its library as .py files; this one is {sys.executable}."
            if task in _LANGUAGES:
                cure = "Type: pip install --force-reinstall -c constraints.txt 'lightning-coba[demo]'"
            raise MissingFileError(f"The quickstart task {task!r} has an empty split.", cure)
    return tasks


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _split(key: str) -> str:
    percent = _digest(key) % 100
    return "train" if percent < 70 else "validation" if percent < 85 else "test"


def _django_folder() -> Path:
    spec = importlib.util.find_spec("django")
    if spec is None or spec.origin is None:
        raise MissingPackageError(
            "The translation tasks of the quickstart are read from Django, which is not installed.",
            "Type: pip install -c constraints.txt 'lightning-coba[demo]'",
        )
    return Path(spec.origin).parent


def _pairs(django: Path, language: str) -> dict[str, str]:
    # Not with gettext.GNUTranslations: it lists its strings only in a private attribute.
    pairs: dict[str, str] = {}
    for catalog in sorted(django.glob(f"**/locale/{language}/LC_MESSAGES/*.po")):
        for entry in catalog.read_text(encoding="utf-8").split("\n\n"):
            match = _ENTRY.search(entry)
            if match is None or _NOT_WANTED_ENTRY.search(entry):
                continue
            english, translation = (ast.literal_eval(f"({quoted})").strip() for quoted in match.groups())
            usable = translation not in ("", english) and 0 < len(english) <= _MOST_ENGLISH_CHARACTERS
            if usable and not _NOT_PLAIN.search(english + translation):
                pairs.setdefault(english, translation)
    return pairs


def _translation_rows(language: str, pairs: dict[str, str]) -> _Splits:
    splits: _Splits = {"train": [], "validation": [], "test": []}
    for english in sorted(pairs, key=_digest):
        # "Password", "password" and "Password:" are one string to whoever has learnt one of them.
        letters = re.sub(r"\W+", " ", english).strip().casefold()
        prompt = f"Translate from English to {_LANGUAGES[language]}: {english}\n"
        row = {"prompt": prompt, "completion": pairs[english], "id": f"{language}:{english}"}
        splits[_split(letters)].append(row)
    return splits


def _definitions(body: Iterable[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    # Not ast.walk: it visits every expression too, which takes longer than the parsing.
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _functions(root: Path) -> Iterator[_Function]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - _SKIPPED)
        for file in (Path(folder, name) for name in sorted(set(names) - _SKIPPED) if name.endswith(".py")):
            with tokenize.open(file) as stream:  # honours the file's own encoding
                source = stream.read()
            lines = source.split("\n")  # not splitlines: a form feed ends no line for the parser
            path = file.relative_to(root).as_posix()
            found = (_read(node, lines, path) for node in _definitions(ast.parse(source).body))
            yield from (function for function in found if function is not None)


def _read(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], path: str) -> _Function | None:
    """Take a function apart; None if it does too little or no sentence says what."""
    summary = _SENTENCE.match(" ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()))
    if not summary or len(summary[0]) not in _SUMMARY_CHARACTERS or _NOT_A_SUMMARY.search(summary[0]):
        return None
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    text = textwrap.dedent("\n".join(lines[start : node.end_lineno]))
    flat = text.split("\n")
    opens, ends = node.body[0].lineno - 1 - start, (node.body[0].end_lineno or 0) - start
    signature, docstring = "\n".join(flat[:opens]), "\n".join(flat[opens:ends])
    body = "\n".join(flat[ends:]).strip("\n").rstrip()
    # Text at the margin defeats the dedent, a semicolon the cutting by lines.
    whole = signature[:1].strip() and docstring[:1] == body[:1] == " "
    idle = len(body) < _FEWEST_BODY_CHARACTERS or all(isinstance(s, ast.Raise) for s in node.body[1:])
    if idle or not whole or _NOT_EXEMPLARY.search(text):
        return None
    return _Function(path, node.lineno, signature, docstring, summary[0], body)


def _distinct(functions: Iterable[_Function]) -> Iterator[_Function]:
    """Drop what does not fit, and copies: the same code, or signature and summary, in whatever file."""
    seen: set[tuple[str, str]] = set()
    per_file: Counter[str] = Counter()
    for function in functions:
        keys = {(function.signature, function.summary), (function.signature, function.body)}
        fits = len(function.signature + function.docstring + function.body) < _MOST_FUNCTION_CHARACTERS
        if fits and seen.isdisjoint(keys) and per_file[function.path] < _MOST_FUNCTIONS_PER_FILE:
            seen |= keys
            per_file[function.path] += 1
            yield function


def _code_rows(task: str, functions: Iterable[_Function]) -> _Splits:
    splits: _Splits = {"train": [], "validation": [], "test": []}
    # By hash and not by file, so that what is kept under the limits is spread over the library.
    for f in sorted(functions, key=lambda f: _digest(f"{task}\n{f.signature}\n{f.summary}")):
        if task == "docstring":
            ask, given, completion = "Say in one sentence what this function does.", f.body, f.summary
        else:
            ask, given, completion = "Write the body of this function.", f.docstring, f.body
        prompt = f"{ask}\n\n{f.signature}\n{given}\n"
        rows = splits[_split(f.path)]
        if len(rows) < _MOST_CODE_ROWS[task][_split(f.path)]:
            rows.append({"prompt": prompt, "completion": completion, "id": f"{task}:{f.path}:{f.line}"})
    return splits


def quickstart_tasks() -> list[Task]:
    """Return the six tasks of `quickstart_rows`, ready for `MultitaskDataModule`."""
    return [
        Task(name, splits["train"], splits["validation"], splits["test"]) for name, splits in quickstart_rows().items()
    ]
