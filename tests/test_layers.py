"""Who may import whom (house.md, section 3), read from the source: a row per package, and no way back."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

NAME = "lightning_coba"
PACKAGE = Path(__file__).parents[1] / NAME
FILES = sorted(PACKAGE.rglob("*.py"))
NOBODY: set[str] = set()
SMALL = {"cache_folder", "lightning_internals", "log_keys"}
#: What a user gives: his mistakes, his files.
OF_USERS = {"errors", "user_files", "user_yaml"}

#: Package (or small file) -> what of ours it may import, anywhere in its files; `data.stream` = that module alone.
MAY_IMPORT = {
    "folder_lock": NOBODY,
    "cache_folder": {"folder_lock"},
    "log_keys": NOBODY,
    "student_t": NOBODY,
    "trend": {"student_t"},
    "lightning_internals": NOBODY,
    "functional": NOBODY,
    "balancers": {"functional", "student_t", "trend"},
    "simplex": {"functional", "log_keys"},
    "data": {"functional", "cache_folder", "lightning_internals"},
    "models": {"functional", "cache_folder"},
    "balancing": {"balancers", "functional", "simplex", "data.stream", "lightning_internals", "log_keys"},
    "runs": {"balancers", "data", "folder_lock", "log_keys", "models", "simplex"},
    "loggers": {"log_keys", "lightning_internals", "runs.files"},
    "callbacks": {"balancing", "functional", "loggers", "runs.checkpoint_file", "runs.files", "simplex", *SMALL},
    "systems": {"balancers", "balancing", "callbacks", "data", "functional", "models", "simplex", *SMALL},
    "inspection": {"data", "balancing.run_length"},
    "evaluation": {"data", "log_keys", "models", "reports.page", "runs"},
    "export": {"evaluation", "log_keys", "models", "runs", "simplex"},
    "reports": {"balancers", "inspection", "log_keys", "runs", "simplex", "student_t", "trend"},
}
EVERYTHING = {*MAY_IMPORT}
MAY_IMPORT = {package: may | OF_USERS for package, may in MAY_IMPORT.items()} | {
    "errors": NOBODY,
    "user_files": {"errors"},
    "user_yaml": {"errors", "user_files"},
}
EVERYTHING |= OF_USERS
MAY_IMPORT |= {"cli": {*EVERYTHING, NAME}, NAME: EVERYTHING}  # and nobody else these two

#: Package -> what of others it may import.
THIRD_PARTY = {
    "functional": {"torch"},
    "balancers": {"numpy", "torch", "torchjd", "cvxpy", "qpsolvers"},
    "simplex": {"IPython", "lightning", "matplotlib", "numpy", "rich", "torch"},
    "balancing": {"lightning", "torch"},
    "callbacks": {"lightning", "rich", "torch"},
    "loggers": {"lightning", "matplotlib", "mlflow", "numpy", "torch", "wandb"},
    "lightning_internals": {"lightning", "torch"},
    "errors": NOBODY,
    "user_files": NOBODY,
    "user_yaml": {"yaml"},
    "cache_folder": NOBODY,
    "folder_lock": NOBODY,
    "log_keys": NOBODY,
    NAME: NOBODY,
}
#: What a plain installation lacks, or what takes seconds to import for one use: imported where it is used.
OPTIONAL = {"IPython", "bitsandbytes", "cvxpy", "datasets", "huggingface_hub", "liger_kernel", "mlflow", "qpsolvers",
            "torchjd", "wandb"}  # fmt: skip
HYDRA = {"hydra", "omegaconf"}


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(source, module="", is_package=False):
    """Return the modules that a source imports, anywhere in it; of `from a import b` a.b where that is one of ours."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            here = module.split(".")[: -up or None] if node.level else []
            base = ".".join([*here, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return found


def imports_of(module):
    """Return what a module imports; of a package, what it exports by its stub too."""
    path = MODULES[module]
    sources = [path, *(stub for stub in [path.with_suffix(".pyi")] if stub.exists())]
    is_package = path.name == "__init__.py"
    return set().union(*(imports(file.read_text(encoding="utf-8"), module, is_package) for file in sources))


GRAPH = {module: {name for name in imports_of(module) if name in MODULES} - {module} for module in MODULES}


def package_of(module):
    return module.split(".")[1] if "." in module else module


def third_party(names):
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {NAME, "__future__", "lazy_loader"}


def is_within(module, place):
    whole = place if place == NAME else f"{NAME}.{place}"
    return module == whole or (place != NAME and module.startswith(f"{whole}."))


def arrows_not_in(table, graph):
    """Return the imports between packages that a table does not allow."""
    return sorted(
        f"{module} -> {target}"
        for module, targets in graph.items()
        for target in targets
        if package_of(module) != package_of(target)
        and not any(is_within(target, may) for may in table.get(package_of(module), NOBODY))
    )


def cycle_in(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_the_reader_of_imports_sees_every_kind():
    source = "import a.b as c\nfrom d import e\ndef f():\n    from . import seeds\n    from ..data.task import Task\n"
    found = imports(source, f"{NAME}.callbacks.x")
    assert found == {"a.b", "d", f"{NAME}.callbacks", f"{NAME}.data.task"}
    assert third_party(found) == {"a", "d"}
    assert imports(f"from {NAME} import balancers, replay") == {f"{NAME}.balancers", NAME}
    assert imports("from .x import y", f"{NAME}.data", is_package=True) == {f"{NAME}.data.x"}


def test_the_judges_of_arrows_and_cycles_see_what_is_forbidden():
    graph = {f"{NAME}.data.x": {f"{NAME}.cli.y"}, f"{NAME}.loggers.z": {f"{NAME}.runs.files", f"{NAME}.runs.card"}}
    assert arrows_not_in(MAY_IMPORT, graph) == [
        f"{NAME}.data.x -> {NAME}.cli.y", f"{NAME}.loggers.z -> {NAME}.runs.card",
    ]  # fmt: skip
    assert set(cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}
    assert not cycle_in({"a": {"b"}, "b": {"c"}})


def test_every_package_has_a_row():
    assert {package_of(module) for module in MODULES} == {*MAY_IMPORT}


def test_packages_import_what_their_row_allows():
    assert arrows_not_in(MAY_IMPORT, GRAPH) == []


def test_no_module_imports_itself_by_a_detour():
    assert cycle_in(GRAPH) == []


def test_no_package_imports_itself_by_a_detour():
    packages = {package: set() for package in MAY_IMPORT}
    for module, targets in GRAPH.items():
        packages[package_of(module)] |= {package_of(target) for target in targets} - {package_of(module)}
    assert cycle_in(packages) == []


@pytest.mark.parametrize("package", THIRD_PARTY)
def test_what_of_others_a_package_imports(package):
    found = {
        f"{module}: {name}"
        for module in MODULES
        if package_of(module) == package
        for name in third_party(imports_of(module)) - THIRD_PARTY[package]
    }
    assert not found


def test_optional_packages_are_imported_where_they_are_used():
    found = {
        f"{module}: {name}"
        for module, path in MODULES.items()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in third_party(imports(ast.unparse(node))) & OPTIONAL
    }
    assert not found


def test_only_the_commands_and_what_builds_a_run_opened_again_know_hydra():
    knowing = {module for module in MODULES if third_party(imports_of(module)) & HYDRA}
    assert {module for module in knowing if package_of(module) != "cli"} == {f"{NAME}.runs.building"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        (NAME, {"torch", "lightning", "transformers", "peft", "hydra", "datasets", "matplotlib"}),
        (f"{NAME}.runs", {"torch", "lightning", "transformers", "peft", "hydra", "datasets", "matplotlib"}),
        (f"{NAME}.reports", {"lightning", "transformers", "peft", "hydra", "datasets", "matplotlib"}),
        (f"{NAME}.callbacks", {"transformers", "peft", "hydra", "datasets", "matplotlib"}),
    ],
)
def test_importing_it_is_light(module, heavy):
    # What lightning and torch import themselves is not ours to answer for.
    before = next((f"import {name}; " for name in ("lightning", "torch") if name not in heavy), "")
    code = f"{before}import sys; before = {{*sys.modules}}; import {module}; print(*{{*sys.modules}} - before)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    added = {name.split(".")[0] for name in done.stdout.split()}
    assert NAME in added
    assert not heavy & added
