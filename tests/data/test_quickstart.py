import ast
import gettext
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from lightning_coba.data import quickstart
from lightning_coba.data.quickstart import quickstart_rows

LANGUAGES = ("de", "fr", "sw", "lb")
CODE = ("docstring", "body")
SPLITS = ("train", "validation", "test")

# Loads the file by its path: what is measured is this module, not what the package imports beside it.
SCRIPT = """
import hashlib, importlib.util, json, sys
spec = importlib.util.spec_from_file_location("quickstart", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
before = set(sys.modules)
rows = json.dumps(module.quickstart_rows())
new = sorted(set(sys.modules) - before)
print(json.dumps({"digest": hashlib.sha256(rows.encode()).hexdigest(), "new": new}))
"""


@pytest.fixture(scope="module")
def tasks():
    pytest.importorskip("django", reason="the demo's extra is not installed")
    return quickstart_rows()


def rows_of(tasks, names, splits=SPLITS):
    return [row for name in names for split in splits for row in tasks[name][split]]


def source_of(row):
    """Return the English string or the source file: what the splits are made by."""
    task, _, rest = row["id"].partition(":")
    return rest if task in LANGUAGES else rest.rpartition(":")[0]


@pytest.mark.parametrize(
    ("name", "fewest", "most"),
    [
        ("de", 480, 640),
        ("fr", 480, 640),
        ("sw", 380, 520),
        ("lb", 90, 180),
        ("docstring", 1100, 1200),
        ("body", 800, 900),
    ],
)
def test_sizes_are_unequal_and_train_is_the_large_majority(tasks, name, fewest, most):
    sizes = {split: len(rows) for split, rows in tasks[name].items()}
    assert tuple(sizes) == SPLITS
    total = sum(sizes.values())
    assert fewest <= total <= most
    assert 0.6 <= sizes["train"] / total <= 0.8
    assert min(sizes.values()) >= 8


def test_there_are_six_tasks(tasks):
    assert tuple(tasks) == LANGUAGES + CODE


@pytest.mark.parametrize("names", [LANGUAGES, CODE])
def test_no_source_is_in_two_splits_of_a_family(tasks, names):
    seen = {split: {source_of(row) for row in rows_of(tasks, names, [split])} for split in SPLITS}
    if names == LANGUAGES:  # neither do case and punctuation make a second string of one
        seen = {split: {re.sub(r"\W+", " ", text).strip().lower() for text in found} for split, found in seen.items()}
    for split, other in [("train", "validation"), ("train", "test"), ("validation", "test")]:
        assert seen[split].isdisjoint(seen[other])


def test_prompts_and_ids_are_unique(tasks):
    rows = rows_of(tasks, tasks)
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)


def test_rows_are_well_formed(tasks):
    for row in rows_of(tasks, tasks):
        assert set(row) == {"prompt", "completion", "id"}
        assert row["prompt"].endswith("\n")
        assert not row["prompt"].endswith("\n\n")
        assert row["completion"].strip()
        assert row["completion"] == row["completion"].rstrip()
        assert len(row["prompt"] + row["completion"]) <= 700


def test_translations_are_plain_strings(tasks):
    for row in rows_of(tasks, LANGUAGES):
        english = source_of(row)
        assert row["prompt"].endswith(f": {english}\n")
        assert english != row["completion"]
        assert len(english) < 200
        assert not set(english + row["completion"]) & set("%{}<>\n\r\x04")


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_are_those_that_gettext_gives(tasks, language):
    folder = quickstart._django_folder()
    compiled = []
    for file in folder.glob(f"**/locale/{language}/LC_MESSAGES/*.mo"):
        with file.open("rb") as stream:
            compiled.append(gettext.GNUTranslations(stream))
    for row in rows_of(tasks, [language]):
        assert row["completion"] in {catalog.gettext(source_of(row)).strip() for catalog in compiled}


def test_body_completes_its_function(tasks):
    for row in rows_of(tasks, ["body"]):
        assert row["completion"].startswith(" ")
        code = row["prompt"].partition("\n\n")[2] + row["completion"]
        (function,) = ast.parse(code).body
        assert ast.get_docstring(function)
        assert len(function.body) > 1


def test_docstring_is_taken_out_of_its_function(tasks):
    for row in rows_of(tasks, ["docstring"]):
        code = row["prompt"].partition("\n\n")[2]
        (function,) = ast.parse(code).body
        assert not ast.get_docstring(function)
        assert row["completion"].endswith(".")
        assert "\n" not in row["completion"]
        assert 24 <= len(row["completion"]) <= 140


@pytest.mark.parametrize("name", CODE)
def test_no_module_dominates(tasks, name):
    rows = rows_of(tasks, [name])
    files = [source_of(row) for row in rows]
    assert max(files.count(file) for file in set(files)) <= 0.03 * len(rows)
    assert not any(re.search(r"(^|/)(tests?|idlelib|lib2to3|site-packages)/", file) for file in files)


def test_another_process_reads_the_same_and_imports_nothing(tasks):
    digest = hashlib.sha256(json.dumps(tasks).encode()).hexdigest()
    command = [sys.executable, "-W", "error", "-c", SCRIPT, quickstart.__file__]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    report = json.loads(run.stdout)
    assert report["digest"] == digest
    # `ast` itself loads a few modules on first use; none of those that are only read may be among them.
    read = {source_of(row).partition("/")[0].removesuffix(".py") for row in rows_of(tasks, CODE)}
    assert "django" not in report["new"]
    assert {"imaplib", "mailbox", "smtplib", "xml"} <= read
    assert len(read & set(report["new"])) <= 5


def test_missing_django_says_what_to_type(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install -c constraints.txt 'lightning-coba[demo]'")):
        quickstart_rows.__wrapped__()


def test_django_without_catalogs_says_what_to_type(monkeypatch, tmp_path, tasks):
    monkeypatch.setattr(quickstart, "_django_folder", lambda: tmp_path)
    monkeypatch.setattr(quickstart, "_functions", lambda root: [])
    with pytest.raises(FileNotFoundError, match=r"'de' has an empty split\. Type: pip install --force-reinstall"):
        quickstart_rows.__wrapped__()


def test_plural_context_fuzzy_and_multiline_entries(tmp_path):
    folder = tmp_path / "conf" / "locale" / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "django.po").write_text(
        'msgid ""\nmsgstr ""\n"Language: de\\n"\n\n'
        'msgctxt "abbrev"\nmsgid "May"\nmsgstr "Mai"\n\n'
        '#, fuzzy\nmsgid "Draft"\nmsgstr "Zug"\n\n'
        '#~ msgid "Old"\n#~ msgstr "Alt"\n\n'
        'msgid "day"\nmsgid_plural "days"\nmsgstr[0] "Tag"\nmsgstr[1] "Tage"\n\n'
        'msgid "Same"\nmsgstr "Same"\n\n'
        'msgid "Untranslated"\nmsgstr ""\n\n'
        'msgid "Hello %(name)s"\nmsgstr "Hallo %(name)s"\n\n'
        'msgid ""\n"A \\"long\\" "\n"text"\nmsgstr ""\n"Ein „langer“ "\n"Text"',
        encoding="utf-8",
    )
    assert quickstart._pairs(tmp_path, "de") == {'A "long" text': "Ein „langer“ Text"}
