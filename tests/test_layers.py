"""Who may import whom (house.md, section 3): read from the source, and the light import from a process."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_coba"
FILES = sorted(PACKAGE.rglob("*.py"))
NAME = "lightning_coba"
HEAVY = {"transformers", "peft", "hydra", "datasets"}


def imports(path, source=None):
    """Return the dotted names a file imports, anywhere in it; `from a import b` gives a and a.b."""
    here = (NAME, *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text() if source is None else source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def under(names, prefix):
    return sorted(name for name in names if name == prefix or name.startswith(prefix + "."))


def third_party(names):
    roots = {name.split(".")[0] for name in names}
    return roots - sys.stdlib_module_names - {NAME, "__future__"}


def siblings(names):
    """The sub-packages and modules of ours that are imported."""
    return {name.split(".")[1] for name in names if name.startswith(NAME + ".")}


def of(folder):
    files = [path for path in FILES if path.is_relative_to(PACKAGE / folder)]
    assert files, folder
    return pytest.mark.parametrize("path", files, ids=lambda path: str(path.relative_to(PACKAGE)))


def test_the_reader_of_imports_sees_every_kind():
    source = "import a.b as c\nfrom d import e\ndef f():\n    from . import g\n    from ..data.task import Task\n"
    found = imports(PACKAGE / "callbacks" / "x.py", source)
    assert found >= {"a.b", "d", "d.e", f"{NAME}.callbacks.g", f"{NAME}.data.task", f"{NAME}.data.task.Task"}
    assert third_party(found) == {"a", "d"}
    assert siblings(found) == {"callbacks", "data"}


@of("functional")
def test_functional_imports_torch_alone(path):
    names = imports(path)
    assert third_party(names) <= {"torch"}
    assert siblings(names) <= {"functional"}
    assert not under(names, NAME) or NAME not in names


@of("balancers")
def test_balancers_import_functional_alone(path):
    names = imports(path)
    assert not third_party(names) & {"lightning", "pytorch_lightning", "hydra", "omegaconf", *HEAVY}
    assert siblings(names) <= {"functional", "balancers"}
    assert NAME not in names


@of("callbacks")
def test_callbacks_know_neither_the_language_model_nor_the_data(path):
    names = imports(path)
    assert not under(names, f"{NAME}.data")
    assert not under(names, f"{NAME}.modules.multitask_lm")
    assert not under(names, f"{NAME}.modules.MultitaskLM")
    assert not third_party(names) & HEAVY
    assert NAME not in names  # the package's own __init__ knows everything


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if not path.is_relative_to(PACKAGE / "cli")],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_only_commands_import_commands(path):
    names = imports(path)
    assert not under(names, f"{NAME}.cli")
    # The configuration that a run leaves behind is Hydra's.
    assert path.name == "trained_run.py" or not third_party(names) & {"hydra", "omegaconf"}


KNOW_TRANSFORMERS = ("modules", "data", "evaluation", "export", "cli")


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.relative_to(PACKAGE).parts[0] not in KNOW_TRANSFORMERS],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_only_modules_and_data_know_transformers_and_peft(path):
    top_level = ast.Module(
        [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)],
        [],
    )
    assert not third_party(imports(path, ast.unparse(top_level))) & {"transformers", "peft"}


def test_importing_the_package_is_light():
    code = f"import lightning, sys; before = {{*sys.modules}}; import {NAME}; print(*{{*sys.modules}} - before)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    added = {name.split(".")[0] for name in done.stdout.split()}
    assert NAME in added
    assert not HEAVY & added
