"""Who is asked for simplexes, and which names are refused."""

from types import SimpleNamespace

import pytest
import torch

from lightning_coba.simplex import MovesSimplex, Simplex, Trajectory, simplexes_of


class Moves:
    def __init__(self, name, num_records=1):
        self.trajectory = Trajectory(2)
        for t in range(num_records):
            self.trajectory.append(t, {"weight": torch.ones(2) / 2})
        self.simplex = Simplex(name, ("a", "b"), self.trajectory)

    def simplexes(self):
        return [self.simplex]


def found(callbacks, module=None, **options):
    return [simplex.name for simplex in simplexes_of(SimpleNamespace(callbacks=callbacks), module, **options)]


def test_callbacks_are_asked_in_their_order_and_the_module_last():
    assert isinstance(Moves("x"), MovesSimplex)
    assert found([Moves("b"), object(), Moves("a")], Moves("objectives")) == ["b", "a", "objectives"]
    assert found([object()], object()) == []


def test_simplexes_without_a_record_are_given_on_request():
    callbacks = [Moves("a"), Moves("b", num_records=0)]
    assert found(callbacks) == ["a"]
    assert found(callbacks, with_records=False) == ["a", "b"]


def test_two_of_one_name_would_share_a_file_and_are_refused():
    with pytest.raises(ValueError, match=r"`Simplex\.name` must be given once in a run; got \['a'\]"):
        found([Moves("a")], Moves("a"))


def test_a_name_is_part_of_a_file_name_and_of_a_prefix():
    with pytest.raises(ValueError, match=r"`Simplex\.name` must consist of .* got 'a/b'"):
        Moves("a/b")
    assert Moves("balance").simplex.log_prefix == "balance"
    assert Moves("objectives").simplex.log_prefix == "balance/objectives"
