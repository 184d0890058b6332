"""Who may write to a run folder, and what a resumed run may change."""

import copy

import pytest
import torch
from omegaconf import OmegaConf

from lightning_coba.runs.run_folder import RunFolder, run_length

SETTINGS = {
    "seed": 1,
    "resume": False,
    "data": {"batch_size": 4, "root": "tasks"},
    "optimizer": {"lr": 1e-3},
    "callbacks": {"progress": {"leave": True}},
    "trainer": {"max_steps": 10, "max_epochs": 3, "precision": "32-true"},
}


@pytest.fixture
def folder(tmp_path):
    """A folder in which a run of SETTINGS left a checkpoint."""
    folder = RunFolder(tmp_path / "run")
    folder.write_card(status="running")
    OmegaConf.save(OmegaConf.create(SETTINGS), folder.path / "config.yaml")
    (folder.path / "checkpoints").mkdir()
    parts = {"state_dict": {}, "loops": {}, "callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
    torch.save(parts | {"global_step": 1, "epoch": 0}, folder.path / "checkpoints" / "last.ckpt")
    return folder


def changed(key, value):
    settings = copy.deepcopy(SETTINGS)
    *path, last = key.split(".")
    node = settings
    for part in path:
        node = node[part]
    node[last] = value
    return settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2),
        ("data.root", "others"),
        ("optimizer.lr", 0.1),
        ("trainer.precision", "bf16"),
    ],
)
def test_other_settings_are_refused_by_name_before_anything_is_written(folder, key, value):
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"{key}=.*, now {value}.*name="):
        folder.claim("auto", changed(key, value))
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("resume", "auto"), ("trainer.max_steps", 20), ("callbacks.progress.leave", False), ("data.batch_size", 8)],
)
def test_length_and_what_only_watches_may_change(folder, key, value):
    assert folder.claim("auto", changed(key, value)) == folder.path / "checkpoints" / "last.ckpt"


def test_the_schedule_may_change_with_the_length_alone_and_its_class_never(folder):
    schedule = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 10}
    folder.write_settings(SETTINGS | {"scheduler": schedule})
    longer = changed("trainer.max_steps", 20) | {"scheduler": schedule | {"T_max": 20}}
    assert folder.claim("auto", longer)
    with pytest.raises(ValueError, match=r"scheduler\.T_max=10, now 20"):
        folder.claim("auto", longer | {"trainer": SETTINGS["trainer"]})
    longer["scheduler"]["_target_"] = "torch.optim.lr_scheduler.StepLR"
    with pytest.raises(ValueError, match=r"scheduler\._target_=.*may change: trainer\.max_steps, trainer\.max_epochs"):
        folder.claim("auto", longer)


def test_a_run_without_resume_is_refused_with_both_ways_out(folder):
    with pytest.raises(FileExistsError, match=r"resume=auto.*name="):
        folder.claim(False, SETTINGS)


def test_a_finished_run_goes_on_only_where_it_is_to_be_longer(folder):
    folder.write_card(status="finished", length=run_length(SETTINGS))
    assert folder.is_finished(SETTINGS)
    assert not folder.is_finished(changed("trainer.max_steps", 20))


def test_versions_on_the_card_are_those_of_the_last_write(folder):
    folder.write_card(packages_before=1)
    card = folder.card
    card["packages"] = {"torch": "0"}
    (folder.path / "run.json").write_text(str(card).replace("'", '"').replace("None", "null"))
    folder.write_card(status="running")
    assert folder.card["packages"]["torch"] != "0"
