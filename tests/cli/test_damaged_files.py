"""Whatever became of a file of a run: one sentence says which it is and what to do, and nothing else is lost."""

import json
import shutil

import pytest
import torch

from lightning_coba.cli import evaluate, export, replay, report
from lightning_coba.errors import DamagedFileError, UserError
from lightning_coba.runs.run_folder import RunFolder

pytestmark = [
    pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # Lightning, of a copied run
    pytest.mark.filterwarnings("ignore:MultitaskLM never used `self.task_weights`"),
]
BAD_CARDS = {"empty": "", "cut off": '{"status": "run', "no object": "[1, 2]", "no text": b"\xff\xfe\x00"}
COMMANDS = {"evaluate": evaluate, "export": export, "report": report, "replay": replay}


@pytest.fixture
def run(finished_run, tmp_path):
    """A run that is to go on: a copy of one that is over."""
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    return folder


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def cut(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def refused(capsys, command, *arguments):
    """Return the one line that a command says before it ends with exit code 2."""
    with pytest.raises(SystemExit) as end:
        COMMANDS[command].main([*map(str, arguments)])
    said = capsys.readouterr().err
    assert end.value.code == 2, said
    [line] = said.splitlines()
    return line


@pytest.mark.parametrize("content", BAD_CARDS.values(), ids=BAD_CARDS)
@pytest.mark.parametrize("file", ["run.json", "config.yaml"])
def test_a_damaged_card_or_configuration_is_named_by_coba_train(here, overrides, run, file, content):
    write(run / file, content)
    with pytest.raises(DamagedFileError, match=rf"run/{file}(:1)?: the file is damaged.*Restore it"):
        here(run, *overrides, "trainer.max_epochs=4", "resume=auto")


@pytest.mark.parametrize(
    "entries", [{"status": 5}, {"phases": [1]}, {"phases": {"search": 1}}, {"results": "x"}, {"length": []}], ids=str
)
def test_an_entry_of_another_kind_is_named(here, overrides, run, entries):
    card = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(card | entries))
    with pytest.raises(DamagedFileError, match=rf"run\.json.*`{next(iter(entries))}"):
        here(run, *overrides, "resume=auto")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_card_is_one_sentence_of_every_command(capsys, run, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(run / "run.json", BAD_CARDS["cut off"])
    assert f"{run / 'run.json'}: the file is damaged" in refused(capsys, command, run)


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_a_damaged_checkpoint_is_one_sentence_of_the_commands_that_load_it(capsys, run, command):
    cut(run / "checkpoints" / "best.ckpt")
    said = refused(capsys, command, run, "--checkpoint", "best")
    assert f"{run / 'checkpoints' / 'best.ckpt'}: the file is damaged" in said
    assert "weights_only" not in said


def test_a_damaged_last_checkpoint_costs_the_steps_since_the_one_before(here, overrides, tmp_path):
    here(tmp_path, *overrides)
    files = [tmp_path / name for name in ("metrics.csv", "balance.csv", "before_after.csv")]
    expected = [file.read_text() for file in files]
    RunFolder(tmp_path).write_card(status="running")
    cut(tmp_path / "checkpoints" / "last.ckpt")
    with pytest.warns(UserWarning, match=r"last\.ckpt: the file is damaged.*previous\.ckpt"):
        here(tmp_path, *overrides, "resume=auto")
    assert [file.read_text() for file in files] == expected


@pytest.mark.parametrize(
    "changes",
    [{"optimizer_states": [{"state": {}}]}, {"loops": {}}, {"lr_schedulers": [{"bogus": 1}]}],
    ids=["optimizer", "loops", "scheduler"],
)
def test_a_checkpoint_that_does_not_fit_the_run_is_one_sentence(here, overrides, tmp_path, changes):
    here(tmp_path, *overrides, "trainer.max_epochs=1")
    file = tmp_path / "checkpoints" / "last.ckpt"
    torch.save(torch.load(file, weights_only=True) | changes, file)
    with pytest.raises(DamagedFileError, match=r"last\.ckpt: the checkpoint does not fit this run"):
        here(tmp_path, *overrides, "trainer.max_epochs=2", "resume=auto")


def test_without_one_before_the_sentence_says_what_to_do(here, overrides, run):
    cut(run / "checkpoints" / "last.ckpt")
    (run / "checkpoints" / "previous.ckpt").unlink()
    with pytest.raises(DamagedFileError, match=r"last\.ckpt: the file is damaged.*delete it"):
        here(run, *overrides, "trainer.max_epochs=4", "resume=auto")
    (run / "checkpoints" / "last.ckpt").unlink()
    here(run, *overrides, "trainer.max_epochs=4", "resume=auto")
    assert RunFolder(run).card["status"] == "finished"


def test_damaged_metrics_are_named_by_line(here, overrides, run):
    lines = (run / "metrics.csv").read_bytes().splitlines(keepends=True)
    lines[3] = b"\xff\x00" + lines[3]
    (run / "metrics.csv").write_bytes(b"".join(lines))
    with pytest.raises(UserError, match=r"metrics\.csv:4: .*Delete"):
        here(run, *overrides, "trainer.max_epochs=4", "resume=auto")


def test_damaged_records_are_written_anew_and_named_by_coba_replay(here, capsys, overrides, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = (run / "balance.csv").read_bytes()
    (run / "balance.csv").write_bytes(b"\xff\xfe" + whole)
    assert "balance.csv" in refused(capsys, "replay", run)
    here(run, *overrides, "trainer.max_epochs=4", "resume=auto")
    assert (run / "balance.csv").read_bytes().startswith(whole)


def test_a_run_of_a_later_version_is_refused(here, overrides, run):
    RunFolder(run).write_card()
    card = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(card | {"format_version": 99}))
    with pytest.raises(UserError, match=r"a later version of lightning_coba"):
        here(run, *overrides, "trainer.max_epochs=4", "resume=auto")
