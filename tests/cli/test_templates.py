"""A template typed as it reads arrives as it is meant."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from lightning_coba.cli.config_folder import config_folder
from lightning_coba.cli.templates import quoted_templates, unescaped


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"{question}\n", "{question}\n"),
        (r"Translate to German: {en}\n", "Translate to German: {en}\n"),
        ("""{a}, "{b}", it's so:\\t""", """{a}, "{b}", it's so:\t"""),
        (r'"{quoted} already\n"', "{quoted} already\n"),
        (r"'{quoted}, too\n'", "{quoted}, too\n"),
        (r"C:\dir\{a} = \"{b}\", it's " + "\\", r"C:\dir\{a} = \"{b}\", it's " + "\\"),
        ("column", "column"),
    ],
)
def test_a_template_reaches_the_configuration(typed, meant):
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("train", quoted_templates(["data=files", "data.root=x", f"data.prompt={typed}"]))
    assert config.data.prompt == meant


@pytest.mark.parametrize("plus", ["+", "++"])
def test_a_plus_before_it_changes_nothing(plus):
    assert quoted_templates([rf"{plus}data.prompt={{a}}\n"]) == [f'{plus}data.prompt="{{a}}\n"']


def test_other_arguments_are_left_alone():
    arguments = ["-m", "balancer.balancer.weights={a: 2, b: 1}", "seed=1,2"]
    assert quoted_templates(arguments) == arguments


def test_escapes_are_what_they_mean():
    assert unescaped(r"{a}\n\t{b}") == "{a}\n\t{b}"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("code,qa", ["code", "qa"]), ("code", ["code"]), ("[code,qa]", ["code", "qa"]), ("null", None)],
)
def test_tasks_are_named_with_commas_as_in_other_commands(typed, meant):
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_folder(), version_base="1.3"):
        config = compose("train", quoted_templates(["data=files", "data.root=x", f"data.only={typed}"]))
    assert config.data.only == meant


def test_in_a_sweep_each_of_them_is_a_run():
    assert quoted_templates(["-m", "data.only=code,qa"]) == ["-m", "data.only=[code],[qa]"]
