"""What a checkpoint says of its balancer, across versions of the class; the battery tries every balancer."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from lightning_coba.balancers import FAMO, CoBa, Fixed, Uniform
from lightning_coba.balancers.settings import differing_settings, settings, settings_of_repr

OF_0_4 = "CoBa(window_records=10, warmup_records=3, temperature=5.0, form='paper')"


@dataclass(frozen=True)
class Later(Uniform):
    """A balancer with fields that a checkpoint may lack."""

    required: float
    added: str = "as before"
    listed: tuple[float, ...] = field(default_factory=lambda: (1.0, 2.0))
    cache: list[int] = field(default_factory=list, compare=False)


def test_settings_are_plain_values():
    assert settings(Fixed(torch.tensor([1.0, 3.0])))["weights"] == [1.0, 3.0]
    assert settings(Fixed({"qa": np.float64(1), "code": 3})) == {"class": "Fixed", "weights": {"qa": 1.0, "code": 3}}
    assert settings(Later(np.int64(1), cache=[3])) == {
        "class": "Later", "required": 1, "added": "as before", "listed": [1.0, 2.0],
    }  # fmt: skip


def test_a_field_that_the_checkpoint_lacks_counts_as_its_default():
    assert differing_settings({"class": "Later", "required": 1.0}, Later(1)) == []
    assert differing_settings({"class": "Later", "required": 1.0}, Later(1, "else", (1.0,))) == ["added", "listed"]
    assert differing_settings({"class": "Later"}, Later(1)) == ["required"]


def test_every_field_that_differs_is_named():
    saved = settings(Later(1, "x", (3.0,)))
    assert differing_settings(saved, Later(2, "x", (4.0,))) == ["required", "listed"]
    assert differing_settings(saved | {"removed": None}, Later(1, "x", (3.0,))) == ["removed"]


@pytest.mark.parametrize("saved", [settings(FAMO()), {}])
def test_another_class_is_all_that_differs(saved):
    assert differing_settings(saved, CoBa()) == ["class"]


def test_the_order_in_which_tasks_were_named_is_no_difference():
    assert differing_settings(settings(Fixed({"a": 1, "b": 2})), Fixed({"b": 2, "a": 1})) == []
    assert differing_settings(settings(Fixed({"a": 1, "b": 2})), Fixed({"b": 1, "a": 2})) == ["weights"]


def test_a_checkpoint_of_0_4_is_read():
    saved = settings_of_repr(OF_0_4)
    assert saved == {
        "class": "CoBa", "window_records": 10, "warmup_records": 3, "temperature": 5.0, "form": "paper",
    }  # fmt: skip
    assert differing_settings(saved, CoBa()) == []
    assert differing_settings(saved, CoBa(temperature=1)) == ["temperature"]


@pytest.mark.parametrize(
    "text",
    [
        "Fixed(weights=tensor([1., 3.]))",
        "Fixed(weights=inf)",
        "Fixed([1, 3])",
        "<lightning_coba.Own object at 0x7f>",
        "own.CoBa()",
        "CoBa",
        "CoBa(",
        "CoBa(a={[]: 1})",
        "",
        "\0",
    ],
)
def test_a_repr_that_is_no_call_with_literals_is_not_read(text):
    assert settings_of_repr(text) is None
