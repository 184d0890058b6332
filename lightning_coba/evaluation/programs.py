"""From a row and an answer to a program that says at its very end that all tests have passed."""

import ast
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from lightning_coba.evaluation.normalisation import final_number
from lightning_coba.evaluation.rows import EvaluationRow
from lightning_coba.evaluation.sandbox import NODE_PATH, Limits, python_command


@dataclass(frozen=True)
class Program:
    """What is run.

    Attributes:
        command: an absolute path and its arguments.
        files: name -> text.
        limits: what it may use.
        proof: the line that it prints behind its last test. Made anew for every run, so that an answer cannot know it
            beforehand; an answer that ends the program early does not get there.
    """

    command: list[str]
    files: dict[str, str]
    limits: Limits
    proof: str


@dataclass(frozen=True)
class _Language:
    """How programs of a language are made and run.

    Attributes:
        build: (row, answer, proof as in a string literal) -> files.
        command: runs them.
        needs: programs that must be installed.
        limits: compilers and virtual machines need more than a script.
    """

    build: Callable[[EvaluationRow, str, str], dict[str, str]]
    command: Callable[[], list[str]]
    needs: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def has_program(row: EvaluationRow) -> bool:
    """Whether a row says how to test an answer to it: ``test``, ``code``, or the ``label`` that a program computes."""
    return bool(row.fields.get("test") or row.fields.get("code")) or _computes_label(row)


def why_not_run(row: EvaluationRow) -> str | None:
    """Return what is missing to run the tests of a row; None where nothing is."""
    name = _language_of(row)
    if name not in LANGUAGES:
        return f"tests in {name} are not supported ({', '.join(LANGUAGES)} are)"
    missing = [program for program in LANGUAGES[name].needs if shutil.which(program) is None]
    if missing:
        return f"{missing[0]} is not installed"
    if name == "javascript" and re.search(r"require\(.lodash.\)", str(row.fields.get("test"))) and not _has_lodash():
        return "the JavaScript package lodash is not installed for all users (npm install -g lodash)"
    return None


def program_of(row: EvaluationRow, answer: str) -> Program:
    """Return the program that tests an answer to a row for which `why_not_run` is None."""
    language = LANGUAGES[_language_of(row)]
    proof = f"proof-{secrets.token_hex(16)}"
    # In all these languages the same escape: the line is one of its own also behind output without a line break.
    return Program(language.command(), language.build(row, answer, rf"\n{proof}"), language.limits, proof)


def _language_of(row: EvaluationRow) -> str:
    language = str(row.fields.get("lang") or "python").lower()
    return {"js": "javascript", "c++": "cpp", "py": "python"}.get(language, language)


def _python(row: EvaluationRow, answer: str, proof: str) -> dict[str, str]:
    if row.fields.get("test"):
        test, entry = str(row.fields["test"]), row.fields.get("entry_point")
        # The prompt belongs to the program where it is code, such as the head of the function, and not a text about it.
        parts = [(row.prompt if _is_python(row.prompt + row.gold) else "") + answer, test]
        if entry and re.search(r"^def check\(", test, re.MULTILINE) and not re.search(r"^check\(", test, re.MULTILINE):
            parts.append(f"check({entry})")
    elif row.fields.get("code"):
        parts = [str(row.fields["code"]), _asserts(answer)]
    else:
        label = f"float('{final_number(str(row.fields['label']))}')"
        parts = [answer, f"import math\nassert math.isclose(float(answer), {label}, rel_tol=1e-6, abs_tol=1e-6)"]
    return {"main.py": "\n".join([*parts, f"print('{proof}')", ""])}


def _asserts(answer: str) -> str:
    """Return an answer that should be tests, or what fails where it tests nothing."""
    return answer if re.search(r"^\s*assert\b", answer, re.MULTILINE) else "assert False, 'there is no test'"


def _javascript(row: EvaluationRow, answer: str, proof: str) -> dict[str, str]:
    return {"main.js": "\n".join([row.prompt + answer, str(row.fields["test"]), f"console.log('{proof}');", ""])}


def _java(row: EvaluationRow, answer: str, proof: str) -> dict[str, str]:
    after = (
        "public class AllPassed {\n  public static void main(String[] arguments) throws Throwable {\n"
        f'    Main.main(arguments);\n    System.out.println("{proof}");\n  }}\n}}\n'
    )
    return {"Main.java": "\n".join([row.prompt + answer, str(row.fields["test"]), ""]), "AllPassed.java": after}


def _cpp(row: EvaluationRow, answer: str, proof: str) -> dict[str, str]:
    # A local object ends where main returns, and neither with exit() nor with an exception that nobody catches.
    declared = f'#include <cstdio>\nstruct AllPassed {{ ~AllPassed() {{ std::puts("{proof}"); }} }};\n'
    test = re.sub(r"(\bmain\s*\([^)]*\)\s*\{)", r"\1 AllPassed all_passed;", str(row.fields["test"]), count=1)
    return {"main.cpp": "\n".join([row.prompt + answer, declared, test, ""])}


LANGUAGES = {
    "python": _Language(_python, lambda: python_command("main.py")),
    "javascript": _Language(
        _javascript,
        lambda: [shutil.which("node") or "", "--max-old-space-size=256", "main.js"],
        ("node",),
        Limits(memory_mb=8192, processes=32),
    ),
    "java": _Language(
        _java,
        lambda: [
            "/bin/sh", "-c",
            "javac -J-Xmx256m -J-XX:-UsePerfData Main.java AllPassed.java "
            "&& exec java -Xmx256m -XX:-UsePerfData AllPassed",
        ],
        ("javac", "java"),
        Limits(seconds=40, memory_mb=8192, processes=64, open_files=256),
    ),
    "cpp": _Language(
        _cpp,
        lambda: ["/bin/sh", "-c", "g++ -std=c++17 -O1 -w -o main main.cpp && exec ./main"],
        ("g++",),
        Limits(seconds=40, memory_mb=1024, disk_mb=32),
    ),
}  # fmt: skip


def _computes_label(row: EvaluationRow) -> bool:
    """Whether the completion is a Python program that leaves the label, a number, in the variable ``answer``."""
    label = row.fields.get("label")
    number = final_number(str(label)) if label is not None else None
    return (
        isinstance(number, Decimal) and bool(re.search(r"^answer\s*=", row.gold, re.MULTILINE)) and _is_python(row.gold)
    )


def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def _has_lodash() -> bool:
    from pathlib import Path

    return any((Path(folder) / "lodash").is_dir() for folder in NODE_PATH.split(":"))
