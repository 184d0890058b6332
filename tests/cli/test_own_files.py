"""A mistake in a file of one's own is told in one line, with the file and the line where it stands."""

import pytest

from lightning_coba.cli.composing import composed
from lightning_coba.errors import UserError

BEGINNING = "# @package _global_\ndefaults:\n  - override /data: files\n\ndata:\n  root: tasks\n"

MISTAKES = [
    (BEGINNING + "trainer:\n    max_steps: 3\n  accelerator: cpu\n", 9, "not valid YAML"),
    (BEGINNING + "trainer:\n\tmax_steps: 3\n", 8, "'\\t'"),
    (BEGINNING + "seed: 1\nseed: 2\n", 8, "'seed' is there twice"),
    (BEGINNING + "name: !!python/object:os.system x\n", 7, "python/object"),
    (BEGINNING + "a: &a [*a]\n", 7, "alias"),
    (BEGINNING + "trainer: [1, 2]\n", 7, "`trainer` must hold settings"),
    (BEGINNING + "  batch_size: many\n", 7, "`data.batch_size` must be a whole number"),
    (BEGINNING + "  max_length: ${nowhere}\n", 7, "`data.max_length` cannot be resolved"),
    (BEGINNING + "  _target_: lightning_coba.Nothing\n", 7, "cannot be imported"),
    ("- a\n- b\n", 1, "must hold a mapping"),
    ("defaults: data\n", 1, "`defaults` must be a list"),
    ("seed: 1\ndefaults:\n  - 3\n", 3, "GROUP: OPTION"),
    ("# @package _global_\ndefaults:\n  - override /data: fils\n", 3, "Did you mean data=files?"),
]


@pytest.fixture
def experiment(tmp_path):
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    return file


@pytest.mark.parametrize(("text", "line", "says"), MISTAKES)
def test_a_mistake_is_told_with_its_line(experiment, text, line, says):
    experiment.write_text(text)
    with pytest.raises(UserError) as caught:
        composed(str(experiment), trust_code=True)
    assert caught.value.where == f"{experiment}:{line}"
    assert says in caught.value.what
    assert "\n" not in str(caught.value)


def test_many_aliases_take_no_time(experiment):
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 12)]
    experiment.write_text("\n".join(["l0: &l0 [1]", *levels, ""]))
    with pytest.raises(UserError, match="written out with its aliases"):
        composed(str(experiment))


def test_the_command_prints_this_one_line(command, experiment, tmp_path):
    for text, line, says in (MISTAKES[0], MISTAKES[6]):
        experiment.write_text(text)
        [printed] = command(tmp_path, "--config-dir", str(tmp_path), "experiment=mine", code=2).splitlines()
        assert printed.startswith(f"coba-train: {experiment}:{line}: ")
        assert says in printed


def test_what_was_typed_is_not_blamed_on_the_file(command, experiment, tmp_path):
    experiment.write_text(BEGINNING + "  batch_size: 4\n")
    typed = ["--config-dir", str(tmp_path), "experiment=mine", "data.batch_size=many"]
    [printed] = command(tmp_path, *typed, code=2).splitlines()
    assert printed.startswith("coba-train: `data.batch_size` must be a whole number")


def test_what_another_package_refuses_is_told_with_its_key(here, overrides, tmp_path):
    refused = {"optimizer.lr=-1": "`optimizer` is refused .*learning rate", "peft.r=-1": "`peft` is refused"}
    for setting, says in refused.items():
        with pytest.raises(UserError, match=says):
            here(tmp_path / setting, *overrides, setting)
