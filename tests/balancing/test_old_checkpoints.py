"""Checkpoints of version 0.4 are continued, or refused with what to do; later ones survive a new field."""

from pathlib import Path

import pytest
import torch
from foreign import SHORT_RUNS, Foreign, Stepping, fit, held_out, rows
from torch.utils.data import ConcatDataset, DataLoader

from lightning_coba import ConvergenceBalancer, TaskBalancing
from lightning_coba.balancers import LBTW, CoBa

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
#: Written after two epochs of the run that `resumed` goes on with, by the code of 0.4.
CHECKPOINT = Path(__file__).parents[1] / "golden" / "checkpoint_0_4.ckpt"
SETTINGS = {"window_records": 3, "warmup_records": 1, "prior": {"a": 2.0}, "min_weight": 0.1}


def run(ckpt_path=None, **changes):
    callback = ConvergenceBalancer(**{**SETTINGS, **changes})
    train = DataLoader(ConcatDataset([rows(4)] * 6), batch_size=4)
    fit(Foreign(), callback, train=train, max_epochs=4, ckpt_path=ckpt_path)
    return callback


def test_a_checkpoint_of_0_4_goes_on_as_if_nothing_had_happened():
    whole, resumed = run().history, run(CHECKPOINT).history
    assert resumed["step"] == [6, 12, 18, 24]
    for column in ("loss", "ratio", "slope", "weight", "divergence_factor"):
        # Another processor trained the first half, in float32.
        torch.testing.assert_close(resumed[column], whole[column], rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"window_records": 4}, "window_records"),
        ({"temperature": 4.0}, "temperature"),
        ({"prior": None}, "prior"),
        ({"min_weight": 0.2}, "min_weight"),
    ],
)
def test_other_settings_than_those_of_0_4_are_refused(changes, differs):
    with pytest.raises(ValueError, match=rf"written by CoBa\(window_records=3.*differs in {differs}\. Resume with"):
        run(CHECKPOINT, **changes)


def stored(balancer=None):
    """Return the state of 0.4, as if another balancer had written it."""
    [state] = torch.load(CHECKPOINT, weights_only=True)["callbacks"].values()
    if balancer:
        state["recorder"]["balancer"] = balancer
    return state


@pytest.mark.parametrize("text", ["Fixed(weights=tensor([1., 2.]))", "LBTW(alpha=0.5, source='held_out')"])
def test_another_method_s_settings_of_0_4_are_refused_whether_or_not_they_can_be_read(text):
    callback = ConvergenceBalancer(**SETTINGS)
    callback.load_state_dict(stored(text))
    with pytest.raises(ValueError, match=r"written by (Fixed|LBTW)\(.*this run has CoBa\(.*start a new run"):
        fit(Foreign(), callback)


def test_a_state_with_other_fields_is_refused_with_their_names():
    state = stored()
    del state["recorder"]["state"]["slope"]
    callback = ConvergenceBalancer(**SETTINGS)
    callback.load_state_dict(state)
    with pytest.raises(ValueError, match=r"state of CoBa holds.*and this version of lightning_coba keeps .*slope"):
        fit(Foreign(), callback)


def test_a_field_that_the_checkpoint_does_not_know_has_its_default(monkeypatch):
    before = TaskBalancing(LBTW(source="held_out"))
    fit(Foreign(), before, max_epochs=2)
    state = before.state_dict()
    del state["recorder"]["balancer"]["reset_each_epoch"]  # as if the class had gained the field since
    for balancer, fits in ((LBTW(source="held_out"), True), (LBTW(source="held_out", reset_each_epoch=True), False)):
        after = TaskBalancing(balancer)
        after.load_state_dict(state)
        if fits:
            fit(Foreign(), after, max_epochs=1)
            assert after.num_records == 3
        else:
            with pytest.raises(ValueError, match="differs in reset_each_epoch"):
                fit(Foreign(), after, max_epochs=1)


def test_held_out_draws_of_0_4_are_said_to_be_others(said):
    state = stored(repr(CoBa(3, 1))) | {"cadence": "every_n_steps=2", "seed": 0}
    callback = ConvergenceBalancer(every_n_steps=2, held_out=held_out(), **SETTINGS)
    callback.load_state_dict(state)
    fit(Stepping(), callback, max_epochs=1)
    assert callback.num_records == 2 + 3
    assert any("drew held-out rows in another order" in line for line in said)
