"""The names of a run folder are spelled in one file."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from lightning_coba.cli.config_folder import config_folder
from lightning_coba.runs import files
from lightning_coba.runs.files import EvaluationFiles, ReportFiles, RunFiles, sweep_journal

PACKAGE = Path(files.__file__).parents[1]
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE / "runs"]
CONF = sorted(Path(config_folder()).rglob("*.yaml"))


def paths(kind):
    """Return every path that a class gives without being asked for one by name."""
    made = kind(Path())
    given = [
        name
        for name, value in vars(kind).items()
        if hasattr(value, "__get__") and not callable(value) and name[0] != "_"
    ]
    assert given
    assert [field.name for field in fields(kind)] == ["folder"]
    return {getattr(made, name) for name in given}


PATHS = {path for kind in (RunFiles, EvaluationFiles, ReportFiles) for path in paths(kind)} | {sweep_journal(Path())}
ALL = {path.name for path in PATHS} | {RunFiles(Path()).evaluation(split).folder.name for split in ("test", "dev")}
#: What nothing else is called; a folder such as `model` shares its name with settings, arguments and attributes.
DISTINCT = {name for name in ALL if "." in name or name.endswith("_id")}


def text_of(node):
    """Return the text of a literal, with {} for what an f-string fills in; None for what is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def joined_to_a_path(node):
    """Return the operands of `/` and the arguments of `Path` and `joinpath`, but for those of the configuration's tree.

    Its groups are called `model` and the like, too.
    """
    if not isinstance(node, ast.BinOp | ast.Call) or "config_folder" in ast.unparse(node):
        return []
    if isinstance(node, ast.BinOp):
        return [node.left, node.right] if isinstance(node.op, ast.Div) else []
    return node.args if ast.unparse(node.func).split(".")[-1] in ("Path", "joinpath") else []


def named(source):
    """Return the literals that name a file of a run folder, with their lines.

    Sentences for people may: a literal with a blank in it is one, and so is a docstring. Of other literals those name a
    file that have a distinct name between slashes, and, of names that mean other things too, those that are joined to a
    path: an operand of `/`, or an argument of `Path` or `joinpath`.
    """
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        # Parts of an f-string are read with it, docstrings not at all.
        if isinstance(node, ast.JoinedStr):
            for part in node.values:
                part.is_read = True
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.is_read = True
        for child in joined_to_a_path(node):
            child.is_joined = True
        text = None if getattr(node, "is_read", False) else text_of(node)
        if text is None or any(character.isspace() for character in text):
            continue
        names = ALL if getattr(node, "is_joined", False) or "/" in text else DISTINCT
        if names & set(text.split("/")):
            found.append(f"{node.lineno}: {text}")
    return found


@pytest.mark.parametrize(
    "source",
    ["x / 'adapter'", "Path(x, 'model')", "f'{x}/figures/{y}.png'", "open('run.json')", "x.glob('*/run.json')",
     "NAME = 'metrics.csv'", "x / 'checkpoints' / f'{y}.ckpt'", "f(a='evaluation/predictions')"],
)  # fmt: skip
def test_a_name_is_found(source):
    assert named(source)


@pytest.mark.parametrize(
    "source",
    ["x['model']", "'''Write run.json.'''", "print(f'See {x}/report.html now')", "Path(config_folder()) / 'model'",
     "getattr(x, 'tokenizer')", "x / y",
     "raise ValueError('no metrics.csv here')"],
)  # fmt: skip
def test_what_is_said_to_people_or_means_something_else_is_not(source):
    assert not named(source)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_file_names_a_file_of_the_run_folder(path):
    assert named(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", CONF, ids=lambda path: str(path.relative_to(config_folder())))
def test_no_option_names_a_file_of_the_run_folder(path):
    def strings(node):
        if isinstance(node, dict | list):
            for child in node.values() if isinstance(node, dict) else node:
                yield from strings(child)
        elif isinstance(node, str):
            yield node

    for text in strings(yaml.safe_load(path.read_text(encoding="utf-8"))):
        names = ALL if "/" in text else DISTINCT
        assert any(map(str.isspace, text)) or not names & set(text.split("/")), text


def test_every_path_lies_in_its_folder_and_a_phase_has_its_own():
    run = RunFiles(Path("runs/x"))
    assert run.phase("search").metrics == Path("runs/x/search/metrics.csv")
    assert run.best_checkpoint == run.checkpoint("best")
    assert run.last_checkpoint.parent == run.checkpoints
    assert run.evaluation().predictions == Path("runs/x/evaluation/predictions")
    assert run.evaluation("validation").folder == Path("runs/x/evaluation-validation")
    assert run.export("merged") == Path("runs/x/export/merged")
