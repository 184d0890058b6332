"""From a row and an answer to a program that says at its very end that all tests have passed."""

import ast
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from string import Template

from lightning_coba.evaluation.languages import LANGUAGES
from lightning_coba.evaluation.normalisation import final_number
from lightning_coba.evaluation.rows import EvaluationRow
from lightning_coba.evaluation.sandbox import NODE_PATH, PATH, Limits


@dataclass(frozen=True)
class Program:
    """What is run.

    Attributes:
        command: The command and its arguments.
        files: Text by file name.
        limits: What it may use.
        proof: The line that it prints behind its last test. Made anew for every run, so that an answer cannot know it
            beforehand; an answer that ends the program early does not get there.
    """

    command: list[str]
    files: dict[str, str]
    limits: Limits
    proof: str


def has_program(row: EvaluationRow) -> bool:
    """Whether a row says how to test an answer to it: ``test``, ``code``, or the ``label`` that a program computes."""
    return bool(row.fields.get("test") or row.fields.get("code")) or _computes_label(row)


def why_not_run(row: EvaluationRow) -> str | None:
    """Return what is missing to run the tests of a row; None where nothing is."""
    name = _language_of(row)
    if name not in LANGUAGES:
        return f"tests in {name} are not supported ({', '.join(LANGUAGES)} are)"
    missing = [program for program in LANGUAGES[name].needs if shutil.which(program, path=PATH) is None]
    if missing:
        return f"{missing[0]} is not installed in {PATH}"
    lodash = name == "javascript" and re.search(r"require\(.lodash.\)", str(row.fields.get("test")))
    if lodash and not any((Path(folder) / "lodash").is_dir() for folder in NODE_PATH.split(":")):
        return "the JavaScript package lodash is not installed for all users (npm install -g lodash)"
    return None


def program_of(row: EvaluationRow, answer: str) -> Program:
    """Return the program that tests an answer to a row for which `why_not_run` is None."""
    name = _language_of(row)
    language = LANGUAGES[name]
    code, test = _python(row, answer) if name == "python" else (row.prompt + answer, str(row.fields["test"]))
    proof = f"proof-{secrets.token_hex(16)}"
    # A line of its own also behind output without a line break.
    parts = {"answer": code, "test": test, "proof": rf"\n{proof}"}
    files = {file: Template(text).substitute(parts) for file, text in language.files.items()}
    return Program(language.command, files, language.limits, proof)


def _language_of(row: EvaluationRow) -> str:
    language = str(row.fields.get("lang") or "python").lower()
    return {"js": "javascript", "c++": "cpp", "py": "python"}.get(language, language)


def _python(row: EvaluationRow, answer: str) -> tuple[str, str]:
    """Return the code under test, and its test."""
    if row.fields.get("test"):
        test, entry = str(row.fields["test"]), row.fields.get("entry_point")
        if entry and re.search(r"^def check\(", test, re.MULTILINE) and not re.search(r"^check\(", test, re.MULTILINE):
            test += f"\ncheck({entry})"
        # The prompt belongs to the program where it is code, such as the head of the function, and not a text about it.
        return (row.prompt if _is_python(row.prompt + row.gold) else "") + answer, test
    if row.fields.get("code"):
        has_test = re.search(r"^\s*assert\b", answer, re.MULTILINE)
        return str(row.fields["code"]), answer if has_test else "assert False, 'there is no test'"
    label = f"float('{final_number(str(row.fields['label']))}')"
    return answer, f"import math\nassert math.isclose(float(answer), {label}, rel_tol=1e-6, abs_tol=1e-6)"


def _computes_label(row: EvaluationRow) -> bool:
    """Whether the completion is a Python program that leaves the label, a number, in the variable ``answer``."""
    label = row.fields.get("label")
    if label is None or final_number(str(label)) is None:
        return False
    return bool(re.search(r"^answer\s*=", row.gold, re.MULTILINE)) and _is_python(row.gold)


def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True
