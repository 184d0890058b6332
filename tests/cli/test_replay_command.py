"""`coba-replay` on a table and on a real run, and what it says to someone new."""

import csv
import subprocess
import sys

import pytest

from lightning_coba.cli.replay import main

ROWS = [f"{10 * t},{2 - 0.1 * t},{1.5 - 0.1 * t + 0.01 * t * t}" for t in range(1, 17)]


@pytest.fixture
def losses(tmp_path, monkeypatch):
    """Go to a folder with a table of losses in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.csv").write_text("\n".join(["step,val_loss/code,val_loss/qa", *ROWS, ""]), encoding="utf-8")
    return "losses.csv"


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def settings_of(folder):
    with (folder / "settings.csv").open(encoding="utf-8") as stream:
        return [row["setting"] for row in csv.DictReader(stream)]


def test_a_table_is_answered_with_words_and_files(losses, tmp_path, capsys):
    main([losses])
    text = printed(capsys)
    for words in (
        "Steps: `step`.",
        "2 tasks (code, qa)",
        "16 records",
        "something to balance: qa",
        "Open replay/replay",
    ):
        assert words in text
    written = {path.name for path in (tmp_path / "replay").rglob("*.*")}
    assert {"replay.html", "weights.csv", "settings.csv", "losses.png", "weights.png", "final-weights.png"} <= written
    assert settings_of(tmp_path / "replay")[0] == "CoBa (default)"


def test_what_to_try_may_be_said(losses, tmp_path):
    main([losses, "--balancer", "coba", "--balancer", "uniform", "--set", "window_records=4,6", "--out", "out"])
    assert settings_of(tmp_path / "out") == ["CoBa window 4", "CoBa window 6", "Uniform"]


def test_what_to_read_may_be_said(losses, tmp_path):
    main([losses, "--pattern", "val_loss/{task}", "--tasks", "qa,code", "--initial", "qa=3", "--balancer", "uniform"])
    with (tmp_path / "replay" / "weights.csv").open(encoding="utf-8") as stream:
        qa, code = list(csv.DictReader(stream))[:2]
    assert (qa["task"], code["task"], code["ratio"]) == ("qa", "code", "1.0")
    assert float(qa["ratio"]) == pytest.approx(1.41 / 3)


def test_a_real_run_is_replayed_with_its_own_setting(finished_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main([str(finished_run)])
    assert "(the run), gives the weights that the run had." in printed(capsys)
    assert settings_of(tmp_path / "replay")[0].endswith("(the run)")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["typo"], "which does not exist"),
        (["losses.csv", "--tasks", "math"], "has no math. The tasks are: code, qa"),
        (["losses.csv", "--balancer", "mgda"], "one of coba, dwa"),
        (["losses.csv", "--set", "window=3"], "The fields are: window_records"),
        (["losses.csv", "--initial", "qa=0"], "TASK=LOSS"),
    ],
)
def test_what_is_wrong_is_one_plain_message(losses, tmp_path, capsys, arguments, complaint):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("coba-replay: ")
    assert complaint in told
    assert "Traceback" not in told
    assert not (tmp_path / "replay").exists()


def test_help_is_something_to_act_on(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for words in ("coba-replay runs/", "--set window_records=3,5,10", "--pattern", "replay.html", "weights.csv"):
        assert words in text


def test_help_and_reading_need_no_torch():
    code = (
        "import sys; from lightning_coba.cli import replay; replay.parser(); "
        "from lightning_coba.reports import read_losses; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
