"""`coba-report` on runs that `coba-train` left, and what it says to someone new."""

import os
import re
import subprocess
import sys

import pytest

from lightning_coba.cli.report import main


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory):
    return tmp_path_factory.mktemp("nowhere")


def test_real_runs_are_compared(tmp_path, monkeypatch, capsys, here, overrides):
    monkeypatch.chdir(tmp_path)
    for balancer in ("coba", "uniform"):
        kept = [item for item in overrides if balancer == "coba" or not item.startswith("balancer.")]
        folder = tmp_path / "multirun" / "powers" / f"balancer={balancer},seed=1"
        here(folder, *kept, f"balancer={balancer}")
    capsys.readouterr()
    main(["multirun"])
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("CoBa: no difference shown", "Uniform (mean over 2 tasks and 1 seed)", "TEST", "report/report.html"):
        assert words in printed
    assert "left out" not in printed
    assert not re.search(r"\bdiffer\b", printed)  # in a setting other than method and seed
    written = {path.name for path in (tmp_path / "report").rglob("*.*")}
    assert {"runs.csv", "report.md", "report.html", "powers-change.png", "powers-best-steps.png"} <= written


def test_help_is_something_to_act_on(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for words in ("coba-report multirun/", "balancer=coba,uniform", "--out", "report.html", "runs.csv"):
        assert words in text


@pytest.mark.parametrize("missing", [True, False])
def test_a_folder_without_runs_is_a_plain_error(tmp_path, nowhere, capsys, missing):
    with pytest.raises(SystemExit) as end:
        main([str(nowhere / "typo" if missing else nowhere), "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert "runs/" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_neither_torch_nor_lightning_is_needed(tmp_path):
    # The package's own __init__ may import them; what the command itself asks for must not.
    code = (
        "import sys, types; import importlib.util as u; "
        "spec = u.find_spec('lightning_coba'); package = types.ModuleType('lightning_coba'); "
        "package.__path__ = spec.submodule_search_locations; sys.modules['lightning_coba'] = package; "
        "import lightning_coba.cli.report, lightning_coba.reports.comparison.report; "
        "import lightning_coba.reports.comparison.method_figures; "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    loaded = set(done.stdout.split())
    assert "matplotlib" in loaded
    assert not {"torch", "lightning", "transformers", "hydra"} & loaded
