"""Errors as a user reads them."""

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from lightning_coba.cli.command_line import command_parser, plain_errors
from lightning_coba.cli.errors import is_for_the_user, one_line
from lightning_coba.data import Task


def raised(function):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        function()
    return caught.value


def test_what_this_package_refuses_is_for_the_user_and_a_fault_inside_is_not():
    ours = raised(lambda: Task("a/b", []))
    assert isinstance(ours, ValueError)
    assert is_for_the_user(ours)
    assert not is_for_the_user(raised(lambda: int("x")))
    assert not is_for_the_user(raised(lambda: Task(nothing=1)))


def test_error_of_a_part_is_told_without_what_hydra_wraps_around_it():
    ours = raised(lambda: Task("a/b", []))
    wrapped = raised(lambda: instantiate({"_target_": "lightning_coba.Task", "name": "a/b", "train": []}))
    assert isinstance(wrapped, InstantiationException)
    assert is_for_the_user(wrapped)
    assert one_line(wrapped) == one_line(ours)
    assert one_line(ours).startswith("`Task.name`")


def test_one_line_is_the_first():
    assert one_line(KeyError()) == "KeyError"
    assert one_line(ValueError("\nfirst: a\nsecond")) == "ValueError: first: a"
    assert one_line(KeyboardInterrupt()) == one_line(SystemExit(1)) == "stopped from outside"


def test_what_the_system_refuses_is_one_message(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end, plain_errors(command_parser("coba-it", "", "")):
        (tmp_path / "file" / "below").mkdir()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"coba-it: {tmp_path / 'file' / 'below'}: Not a directory.\n"
    with pytest.raises(OSError, match="of ours"), plain_errors(command_parser("coba-it", "", "")):
        raise OSError("a fault of ours")
