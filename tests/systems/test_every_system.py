"""What every system must bring: they are collected from the sub-packages, so a new one is tested from the start."""

import ast
import importlib
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

from lightning_coba import systems
from lightning_coba.cli.config_folder import config_folder
from lightning_coba.export.citations import citation

PACKAGES = Path(systems.__file__).parent


def test_the_list_of_systems_is_that_of_the_folders():
    folders = {path.parent.name for path in PACKAGES.glob("*/__init__.py")}
    assert set(systems.__all__) == folders
    assert "multitask" in folders


@pytest.mark.parametrize("name", systems.__all__)
def test_it_says_what_it_is(name):
    card = importlib.import_module(f"lightning_coba.systems.{name}").__doc__
    for word in ("Paper", "Needs", "Gives", "Differs"):
        assert f"{word}" in card, word


@pytest.mark.parametrize("name", systems.__all__)
def test_it_has_an_option_and_an_entry_to_cite(name):
    option = yaml.safe_load((Path(config_folder()) / "system" / f"{name}.yaml").read_text())
    target = option.get("_target_") or option["system"]["_target_"]
    assert get_object(target)
    assert (PACKAGES / name / "citation.bib").read_text().startswith("@")
    assert "@" in str(citation(name))


@pytest.mark.parametrize("name", systems.__all__)
def test_systems_never_import_each_other(name):
    for file in (PACKAGES / name).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            others = [n for n in named if n.startswith("lightning_coba.systems.")]
            assert all(n.split(".")[2] in (name, "protocol") for n in others), (file, others)
