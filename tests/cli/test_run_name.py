"""The name of a run is a folder below runs/, and never another place."""

import pytest

from lightning_coba.cli.run_name import checked_name
from lightning_coba.errors import UserError


@pytest.mark.parametrize(
    "name",
    ["../../x", "..", ".", "/tmp/x", "a/../../b", "a//b", "a/", "", None, "a\nb", "a\0b", "\x1b[2J", "x" * 256],
)
def test_a_name_that_leaves_its_folder_is_refused(name):
    with pytest.raises(UserError, match=r"`name` must be the name of a folder below runs/.*hydra\.run\.dir"):
        checked_name(name)


@pytest.mark.parametrize("name", ["first", "study/first", "..a", "a..b", "größe 2", 5, "-x", "a=1,b=[2]"])
def test_any_other_name_is_one(name):
    assert checked_name(name) == str(name)


@pytest.mark.parametrize(
    "typed", [["name=../../x"], ["name=a/../../b"], ["name="], ["-m", "name=../x", "seed=1,2"], ["suite=../../x"]]
)
def test_coba_train_refuses_it_before_anything_is_written(command, tmp_path, typed):
    said = command(tmp_path / "a" / "b", *typed, "data=files", "data.root=DIR", code=2)
    assert "coba-train: `name` must be the name of a folder below runs/" in said
    assert "Traceback" not in said
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["a", "a/b"]


def test_a_name_may_nest_and_hydra_may_be_told_another_place(command, overrides, tmp_path):
    small = [*overrides, "trainer.max_epochs=1", "test_before=false"]
    command(tmp_path, *small, "name=study/first")
    assert (tmp_path / "runs" / "study" / "first" / "run.json").is_file()
    command(tmp_path, *small, f"hydra.run.dir={tmp_path / 'elsewhere'}")
    assert (tmp_path / "elsewhere" / "run.json").is_file()


def test_a_name_that_a_sweep_tries_leaves_its_folder_neither(command, tmp_path):
    said = command(tmp_path / "a" / "b", "-m", "name=../../x,../../y", "data=files", "data.root=DIR", code=2)
    assert "`name` must be the name of a folder below runs/" in said
    assert not {path.name for path in tmp_path.rglob("*")} & {"x", "y"}
