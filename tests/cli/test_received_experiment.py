"""`coba-data check` on an experiment that somebody else wrote runs nothing in it and reads no secret."""

import pytest

from lightning_coba.cli import data


@pytest.fixture
def check(tmp_path, capsys, data_folder, model_folder, monkeypatch):
    """Give a function that checks an experiment with some more lines, and returns the exit code and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COBA_SECRET", "hush-hush-hush")

    def run(lines, *options, defaults="  - override /data: files\n  - override /model: causal_lm\n"):
        file = tmp_path / "experiment" / "theirs.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"# @package _global_\ndefaults:\n{defaults}{lines}")
        try:
            data.main(["check", str(file), f"model.model={model_folder}", *options])
        except SystemExit as end:
            return end.code, "".join(capsys.readouterr())
        return 0, "".join(capsys.readouterr())

    run.root = str(data_folder)
    yield run
    assert not (tmp_path / "canary").exists()


def test_what_describes_data_is_checked(check):
    code, said = check(f"suite: theirs\ndata:\n  root: {check.root}\n  max_length: 32\n  seed: ${{seed}}\n")
    assert code == 0, said


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("os.system", "command: touch canary"),
        ("builtins.eval", "_args_: [\"open('canary', 'w')\"]"),
        ("subprocess.Popen", "args: [touch, canary]"),
        ("evil.f", "x: 1"),
    ],
)
def test_targets_that_are_not_listed_are_refused_and_not_imported(check, tmp_path, monkeypatch, target, arguments):
    (tmp_path / "evil.py").write_text("open('canary', 'w').close()\ndef f(x): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    lines = f"data:\n  root: null\n  tasks:\n    _target_: {target}\n    {arguments}\n"
    code, said = check(lines, defaults="  - override /data: quickstart\n  - override /model: causal_lm\n")
    assert code == 2
    code, said = check(f"data:\n  root: {check.root}\n  tokenizer:\n    _target_: {target}\n    {arguments}\n")
    assert code == 2
    code, said = check(f"data:\n  _target_: {target}\n  root: x\n")
    assert code == 2
    assert f"`data._target_` names '{target}'" in said
    assert "--trust-code" in said


def test_a_target_behind_a_reference_is_not_imported(check, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("open('canary', 'w').close()\ndef f(x): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for lines in ("  mixing: ${optimizer}\n", "  only: ['${optimizer}']\n"):
        code, said = check(f"data:\n  root: {check.root}\n{lines}optimizer:\n  _target_: evil.f\n")
        assert code == 2
        assert "'evil.f'" in said


def test_a_defaults_list_looks_nothing_up(check):
    code, said = check("", defaults='  - override /data: "${oc.env:COBA_SECRET}"\n')
    assert code == 2
    assert "theirs.yaml:3: an entry of `defaults` looks something up" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    "lines",
    [
        "data:\n  root: ${oc.env:COBA_SECRET}\n",
        "suite: ${oc.env:COBA_SECRET}\ndata:\n  root: ${suite}\n",
        "suite: env\ndata:\n  root: ${oc.${suite}:COBA_SECRET}\n",
        "data:\n  root: ${oc.decode:${oc.env:COBA_SECRET}}\n",
        "hydra:\n  job:\n    name: ${oc.env:COBA_SECRET}\ndata:\n  root: ${hydra.job.name}\n",
        "hydra:\n  job:\n    name: ${oc.env:COBA_SECRET}\ndata:\n  root: ${hydra:job.name}\n",
        "logger:\n  x: ${oc.env:COBA_SECRET}\ndata:\n  root: ${logger.x}\n",
        "system_name: ${oc.env:COBA_SECRET}\ndata:\n  root: x\n",
        "data:\n  root: x\n  only: ${each_task:}\n",
    ],
)
def test_nothing_is_looked_up_but_settings(check, lines):
    code, said = check(lines)
    assert code == 2
    assert "hush" not in said
    assert "which is not looked up" in said


def test_the_path_of_a_package_is_not_imported(check, tmp_path, monkeypatch):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text("open('canary', 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    code, _ = check("hydra:\n  searchpath: [pkg://evil]\ndata:\n  root: x\n")
    assert code == 2


def test_an_experiment_that_is_trusted_may_look_up_and_build(check, tmp_path, monkeypatch):
    monkeypatch.setenv("COBA_ROOT", check.root)
    lines = "data:\n  root: ${oc.env:COBA_ROOT}\n  max_length: 32\n"
    assert check(lines)[0] == 2
    code, said = check(lines, "--trust-code")
    assert code == 0, said
