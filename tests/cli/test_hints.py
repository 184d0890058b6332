"""Who mistypes an option of `coba-train` is told the nearest that exists."""

import pytest
from hydra.core.global_hydra import GlobalHydra

from lightning_coba.cli import plugins, resolvers
from lightning_coba.cli.hints import hint_for, refuse_dashes
from lightning_coba.errors import UserError


@pytest.fixture(autouse=True)
def hydra():
    resolvers.register()
    plugins.register()
    yield
    GlobalHydra.instance().clear()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("balancer=cobra", "`balancer` has no option 'cobra'. Did you mean balancer=coba? Options: alignedmtl, cagrad"),
        ("data=file", "Did you mean data=files? Options: files, none, quickstart."),
        ("experiment=demoo", "`experiment` has no option 'demoo'. Did you mean experiment=demo?"),
        ("-m balancer=coba,unifrom seed=1,2,3", "Did you mean balancer=uniform?"),
        ("hydra/launcher=corse", "Did you mean hydra/launcher=cores?"),
        ("balancr=coba", "There is no `balancr`. Did you mean balancer=...? The configuration has: data, model, peft"),
        (
            "trainer.max_step=5",
            "There is no `trainer.max_step`. Did you mean trainer.max_steps=...? trainer has: max_e",
        ),
        ("data=files data.rot=x", "Did you mean data.root=...? data has: root"),
        ("trainer.min_stepp=3", "Did you mean +trainer.min_steps=...?"),
        ("trainer.limit_train_batches=3", "put a + before it, +trainer.limit_train_batches=..."),
        ("lr=0.1", "There is no `lr`. Did you mean optimizer.lr=...?"),
        ("data.root=x", "`data.root` is a setting of data=files: choose one of these too."),
        ("balancer=gradnorm balancer.alhpa=2", "There is no `balancer.alhpa`. Did you mean balancer.alpha=...?"),
        ("balancer=gradnorm balancer.balancer.alpha=2", "Did you mean balancer.alpha=...?"),
        ("experiment=demo seed=1,2", "`seed=1,2` gives several values. Add -m to make a run of each, or type a list"),
        ("peft=none peft.r=8", "`peft.r` is a setting of peft=lora"),
    ],
)
def test_the_hint_names_what_was_meant(line, says):
    assert says in hint_for(line.split())


def test_spaces_around_the_sign_are_explained():
    assert "as key=value without spaces" in hint_for(["trainer.max_steps = 5"])


@pytest.mark.parametrize(
    "line",
    [
        "experiment=demo",
        "data=files data.root=here balancer=uniform",
        "-m experiment=compare data=files data.root=here",
        "-m balancer.temperature=interval(1,8) seed=1,2",
        "+trainer.limit_train_batches=3",
    ],
)
def test_nothing_is_said_of_what_composes(line):
    assert hint_for(line.split()) is None


def test_a_folder_of_ones_own_is_searched(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 3\n")
    assert hint_for(["--config-dir", str(tmp_path), "experiment=mine"]) is None
    assert "Did you mean experiment=mine?" in hint_for(["--config-dir", str(tmp_path), "experiment=mien"])


def test_the_hint_is_all_that_is_printed(command, tmp_path):
    [hint] = command(tmp_path, "experiment=demoo", code=2).splitlines()
    assert hint.startswith("coba-train: `experiment` has no option 'demoo'.")
    assert hint.endswith("Options: compare, demo, single (one of your own needs --config-dir DIR).")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_is_missing_is_asked_for_in_one_sentence(command, tmp_path):
    [said] = command(tmp_path, "data=files", code=2).splitlines()
    assert said.startswith("coba-train: `data.root` has to be given. Type data.root=<folder of the tasks, ")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("--max_steps 5", "--max_steps is no option of coba-train. .* as key=value: trainer.max_steps=5."),
        ("--trainer.max_steps=5", "without dashes, as key=value: trainer.max_steps=5."),
        ("--max-steps=5", "trainer.max_steps=5"),
        ("experiment=demo --lr 0.1", "optimizer.lr=0.1"),
        ("--learning_ratio", "as key=value."),
    ],
)
def test_a_setting_typed_as_an_option_is_told_how_it_is_typed(typed, says):
    with pytest.raises(UserError, match=says):
        refuse_dashes(typed.split())


@pytest.mark.parametrize("typed", ["-m seed=1,2", "--cfg job experiment=demo", "--help", "--config-dir here seed=1"])
def test_options_are_let_through(typed):
    refuse_dashes(typed.split())
