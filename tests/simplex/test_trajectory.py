"""Records as columns: what is missing, what is refused, and what a checkpoint brings back."""

import pytest
import torch

from lightning_coba.simplex import Trajectory

TASKS = {"columns": ("loss", "ratio", "slope", "rcs", "acs", "weight"), "scalars": ("divergence_factor",)}


def same(one, other):
    one, other = one.columns(), other.columns()
    assert one.keys() == other.keys()
    for name, values in one.items():
        torch.testing.assert_close(
            torch.as_tensor(values), torch.as_tensor(other[name]), equal_nan=True, rtol=0, atol=0
        )


def filled(num_records=5, **columns):
    trajectory = Trajectory(2, **columns)
    for t in range(num_records):
        trajectory.append(10 * t, {name: torch.rand(2, dtype=torch.float64) for name in trajectory.written})
    return trajectory


def test_what_a_record_leaves_out_is_nan():
    trajectory = Trajectory(2, columns=("loss", "weight"), scalars=("sharpness",))
    trajectory.append(7, {"weight": torch.tensor([0.25, 0.75])})
    columns = trajectory.columns()
    assert list(columns) == ["record", "step", "loss", "weight", "sharpness"]
    assert (columns["record"], columns["step"]) == ([1], [7])
    assert columns["loss"].isnan().all()
    assert columns["sharpness"].isnan().all()
    assert columns["weight"].dtype == torch.float64


def test_a_record_is_a_copy_without_a_graph():
    weight = torch.tensor([0.5, 0.5], requires_grad=True)
    trajectory = Trajectory(2)
    trajectory.append(1, {"weight": weight})
    with torch.no_grad():
        weight.zero_()
    assert trajectory.columns()["weight"].tolist() == [[0.5, 0.5]]
    assert not trajectory.columns()["weight"].requires_grad


def test_misspelt_and_missing_columns_are_named():
    trajectory = Trajectory(2)
    with pytest.raises(KeyError, match="wieght"):
        trajectory.append(1, {"weight": torch.ones(2) / 2, "wieght": torch.ones(2) / 2})
    with pytest.raises(KeyError, match="weight"):
        trajectory.append(1, {})
    with pytest.raises(ValueError, match=r"`Trajectory\.columns` must hold 'weight'; got loss"):
        Trajectory(2, columns=("loss",))


def test_a_checkpoint_brings_the_records_back_to_the_bit():
    before, after = filled(70, **TASKS), Trajectory(2, **TASKS)
    after.load_state_dict(before.state_dict(), [0, 1])
    same(before, after)


def test_a_checkpoint_of_0_4_brings_its_records_back():
    before = filled(3, **TASKS)
    state = before.state_dict()
    # As 0.4 wrote it: one scalar, and no names of columns.
    old = {"steps": state["steps"], "values": state["values"], "factors": torch.tensor([0.1, 0.2, 0.3]).double()}
    after = Trajectory(2, **TASKS)
    after.load_state_dict(old, [0, 1])
    assert after.columns()["divergence_factor"].tolist() == old["factors"].tolist()
    assert after.columns()["weight"].tolist() == before.columns()["weight"].tolist()
    assert after.columns()["loss"].tolist() == before.columns()["loss"].tolist()


def test_added_names_and_added_columns_are_nan_before():
    before = filled(3, columns=("loss", "weight"))
    after = Trajectory(3, columns=("gain", "weight", "loss"), scalars=("sharpness",))
    after.load_state_dict(before.state_dict(), [1, None, 0])
    columns = after.columns()
    assert columns["weight"][:, [2, 0]].tolist() == before.columns()["weight"].tolist()
    assert columns["loss"][:, [2, 0]].tolist() == before.columns()["loss"].tolist()
    assert columns["weight"][:, 1].isnan().all()
    assert columns["gain"].isnan().all()
    assert columns["sharpness"].isnan().all()
