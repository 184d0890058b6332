"""The site builds without the network and without a warning, and shows every public name."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_coba"


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks, docstrings = load("hooks"), load("docstrings")


def build(site, *arguments):
    """Build the site in a process, where a Python warning is an error too, and return the exit status and output."""
    line = [sys.executable, "-W", "error", "-m", "mkdocs", "build", "--strict", "--site-dir", str(site), *arguments]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # the theme's word about MkDocs 2; 1 is pinned
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Build the site once and return address -> HTML."""
    site = tmp_path_factory.mktemp("site")
    status, output = build(site)
    assert status == 0, output
    return {file.relative_to(site).as_posix(): file.read_text(encoding="utf-8") for file in site.rglob("*.html")} | {
        file.relative_to(site).as_posix(): "" for file in (site / "files").rglob("*") if file.is_file()
    }


def public_names(init):
    """Return what a package exports by its stub or lists in `__all__`, without importing it."""
    stub = init.with_suffix(".pyi")
    if stub.exists():
        imports = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
        return [alias.name for node in imports for alias in node.names]
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value) if isinstance(node.value, ast.List) else []
    return []


INITS = [*sorted(PACKAGE.glob("*/__init__.py")), *sorted(PACKAGE.glob("systems/*/__init__.py"))]
PARTS = {".".join(init.parent.relative_to(PACKAGE).parts): public_names(init) for init in INITS}
PARTS = {part: names for part, names in PARTS.items() if names}


def test_there_are_parts():
    assert {"balancers", "balancing", "callbacks", "data", "reports", "systems.multitask"} <= set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_every_public_name_of_a_part_is_in_the_reference(part, pages):
    anchors = set(re.findall(r'id="([\w.]+)"', pages[f"reference/{part.removeprefix('systems.')}.html"]))
    assert [name for name in PARTS[part] if f"lightning_coba.{part}.{name}" not in anchors] == []


def test_the_names_of_the_package_itself_are_in_the_reference(pages):
    shown = re.sub("<[^>]+>", "", pages["reference/index.html"])
    assert [name for name in public_names(PACKAGE / "__init__.py") if not re.search(rf"\b{name}\b", shown)] == []


def test_nothing_comes_from_the_network(pages):
    loaded = r"<(?:script|img|iframe|link)[^>]+(?:src|href)=\"?(?:https?:)?//[^>]*>"
    assert {name: found for name, html in pages.items() if (found := re.findall(loaded, html))} == {}


def test_formulas_and_marks_are_rendered(pages):
    assert pages["balancers.html"].count("<math") > 50
    assert pages["reference/balancers.html"].count("<math") > 50
    for name, html in pages.items():
        prose = re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL)
        assert not re.search(r'class="arithmatex"|:(class|func|meth|data|math):|\.\. math|&gt;&gt;&gt; ', prose), name


def test_links_to_files_of_the_repository_lead_to_copies(pages):
    assert 'href="../files/notebooks/01_drop_in.ipynb"' in pages["how-to/drop-in.html"]
    assert "files/notebooks/01_drop_in.ipynb" in pages
    assert 'href="balancers.html"' in pages["changelog.html"]  # docs/balancers.md where the changelog lies


def test_a_broken_link_stops_the_build(tmp_path):
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    for name, text in {"index.md": "# A\n\n[b](b.md#nowhere)", "b.md": "# B"}.items():
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / name).write_text(text, encoding="utf-8")
    settings = {"site_name": "x", "validation": settings["validation"]}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    status, output = build(tmp_path / "site", "-f", str(tmp_path / "mkdocs.yml"))
    assert status
    assert "nowhere" in output


# ---------------------------------------------------------------- the parts of it


@pytest.mark.parametrize(
    ("target", "page", "expected"),
    [
        ("../notebooks/x.ipynb", "sweeps.md", ("notebooks/x.ipynb", "files/notebooks/x.ipynb")),
        ("../../conf/train.yaml", "how-to/own.md", ("conf/train.yaml", "files/conf/train.yaml")),
        ("../sweeps.md", "how-to/own.md", ("docs/sweeps.md", "sweeps.md")),
        ("../CHANGELOG.md", "sweeps.md", ("CHANGELOG.md", "changelog.md")),
        ("docs/sweeps.md", "changelog.md", ("docs/sweeps.md", "sweeps.md")),
        ("https://example.org/x", "sweeps.md", ("", "")),
    ],
)
def test_where_a_link_leads(target, page, expected):
    assert hooks.in_site(target, page) == expected


def test_a_formula_becomes_mathml():
    assert hooks.mathml(r"\(\arg\min_w w_i\)", "page").startswith("<math")
    assert '<div class="formula"><math' in hooks.mathml(r"\[\begin{aligned} a &amp;= 1 \end{aligned}\]", "page")
    with pytest.raises(PluginError, match=r"page: .*\\nonsense"):
        hooks.mathml(r"\(\nonsense{x}\)", "page")


PUBLIC = {"Balancer": "lightning_coba.balancers.Balancer", "replay": "lightning_coba.balancers.replay"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (":math:`a_i`", "$a_i$"),
        (".. math::\n    a &= b\n\nText.", "$$\n\\begin{align*} a &= b \\end{align*}\n$$\n\nText."),
        (".. math:: a = b", "\n$$\na = b\n$$\n"),
        ("see :meth:`Balancer.init`.", "see [`Balancer.init`][lightning_coba.balancers.Balancer.init]."),
        (":func:`~lightning_coba.replay`", "[`replay`][lightning_coba.balancers.replay]"),
        (":class:`~lightning_coba.inner.Hidden`", "`Hidden`"),
        (":meth:`update`", "`update`"),
        ("**Differs from** it:\n    * one.\n    * two.\n", "**Differs from** it:\n\n* one.\n* two.\n"),
        ("Example:\n    >>> 1\n    1", "Examples:\n    >>> 1\n    1"),
        ("Line.\n\n>>> 1\n1\n", "Line.\n\n```pycon\n>>> 1\n1\n```\n"),
    ],
)
def test_a_docstring_becomes_markdown(before, after):
    assert docstrings.as_markdown(before, PUBLIC) == after


def test_every_fault_names_a_test_that_is_there():
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", (ROOT / "docs" / "faults.md").read_text(encoding="utf-8"))
    assert len(named) > 50
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in named}
    assert not [f"{file}::{test}" for file, test in named if test and f"def {test}(" not in sources[file]]
