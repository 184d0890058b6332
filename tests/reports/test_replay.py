"""Balancers replayed over the losses of a past run: the same numbers as `replay`, from text to settings, and a grid."""

import numpy as np
import pytest
import torch

from lightning_coba.balancers import DWA, LBTW, CoBa, Fixed, MetaWeighting, TokenMean, Uniform, replay
from lightning_coba.reports import LossTable, default_settings, name_settings, parse_settings, replay_settings
from lightning_coba.reports.replay.grid import replayable
from lightning_coba.reports.replay.replaying import most_different
from lightning_coba.simplex import scores_figure


@pytest.fixture
def table():
    """Return two tasks that improve at different speeds, and one that turns; one record lacks a task."""
    t = np.arange(16.0)[:, None]
    losses = np.hstack([2 - 0.05 * t, 1.5 * np.exp(-t / 3) + 0.5, 1.6 - 0.3 * t + 0.025 * t**2])
    losses[4, 1] = np.nan
    return LossTable(["slow", "fast", "turns"], np.arange(1, 17) * 10, losses)


@pytest.mark.parametrize("balancer", [CoBa(), CoBa(5, 3, 2.0, "mftcoder"), LBTW(source="held_out"), Uniform()])
@pytest.mark.parametrize("initial", [None, [2.5, 2.5, 2.0], [np.nan, 2.5, np.nan]])
def test_weights_are_those_of_replay(table, balancer, initial):
    table = LossTable(table.tasks, table.steps, table.losses, initial=initial)
    (result,) = replay_settings(table, balancer).values()
    expected = replay(balancer, table.losses, initial=initial, present=np.isfinite(table.losses))
    torch.testing.assert_close(torch.from_numpy(result.weight), expected, rtol=0, atol=0)
    np.testing.assert_array_equal(result.ratio, table.ratios)


def test_a_result_holds_what_the_weights_are_made_of(table):
    (result,) = replay_settings(table, CoBa()).values()
    share = result.divergence_factor[:, None]
    active = np.isfinite(share[:, 0])
    assert active.tolist() == [False, False] + [True] * 14
    mixed = share * result.rcs + (1 - share) * result.acs
    present = np.isfinite(table.losses).all(axis=1)
    np.testing.assert_allclose(result.weight[active & present], mixed[active & present], rtol=1e-12)
    assert result.steps.tolist() == table.steps.tolist()
    assert scores_figure(result).axes[0].lines


def test_validation_losses_stand_in_for_training_losses(table):
    (result,) = replay_settings(table, DWA(block_records=2)).values()
    expected = replay(DWA(block_records=2), train_losses=table.losses, present=np.isfinite(table.losses))
    np.testing.assert_array_equal(result.weight, expected.numpy())
    assert len(np.unique(result.weight, axis=0)) > 1


def test_weights_by_task_name(table):
    (result,) = replay_settings(table, Fixed({"turns": 2, "slow": 1, "fast": 1})).values()
    assert result.weight[0].tolist() == [0.25, 0.25, 0.5]


@pytest.mark.parametrize("balancer", [MetaWeighting(), TokenMean()])
def test_what_needs_more_than_losses_is_refused(table, balancer):
    with pytest.raises(ValueError, match=r"must work on losses alone; .* needs"):
        replay_settings(table, balancer)


def test_a_loss_of_zero_before_training_names_the_task():
    with pytest.raises(ValueError, match="V\\(0\\) of task 'qa'"):
        replay_settings(LossTable(["code", "qa"], [1, 2], [[1.0, 0.0], [1.0, 1.0]]), CoBa())


def test_those_that_differ_most_are_found(table):
    settings = {"first": Uniform(), "same": Fixed([1, 1, 1]), "far": Fixed([8, 1, 1]), "near": Fixed([1.1, 1, 1])}
    results = replay_settings(table, settings)
    assert list(most_different(results, 2)) == ["first", "far"]
    assert list(most_different(results, 3)) == ["first", "far", "near"]
    assert list(most_different(results, 9)) == ["first", "far", "near"]  # "same" adds nothing


# ---------------------------------------------------------------- from text


def test_every_method_that_can_be_replayed_is(table):
    assert set(replayable()) == {
        "coba", "dwa", "fixed", "geometricmean", "imtll", "lbtw_star", "rlw", "stch", "uniform", "uw",
    }  # fmt: skip
    specs = [name if name != "fixed" else "fixed:weights=[1,2,1]" for name in replayable()]
    results = replay_settings(table, parse_settings(specs))
    assert len(results) == len(specs)
    assert all(np.isfinite(result.weight).all() for result in results.values())


@pytest.mark.parametrize(
    ("specs", "grid", "expected"),
    [
        ([], [], [CoBa()]),
        (["coba", "uniform"], [], [CoBa(), Uniform()]),
        (["CoBa:window_records=5,form=mftcoder"], [], [CoBa(5, form="mftcoder")]),
        (["lbtw"], [], [LBTW(source="held_out")]),
        (["lbtw_star:alpha=0.2"], [], [LBTW(0.2, source="held_out")]),
        (["fixed:weights=[3,1]"], [], [Fixed([3, 1])]),
        (["fixed:weights={a: 3, b: 1}"], [], [Fixed({"a": 3, "b": 1})]),
        ([], ["window_records=5,6", "temperature=1,2"], [CoBa(5, 3, 1), CoBa(5, 3, 2), CoBa(6, 3, 1), CoBa(6, 3, 2)]),
        (["coba", "uniform"], ["window_records=5,6"], [CoBa(5), CoBa(6), Uniform()]),
        (["coba", "dwa"], ["temperature=2"], [CoBa(temperature=2), DWA(temperature=2)]),
        (["coba", "coba"], [], [CoBa()]),
    ],
)
def test_settings_from_text(specs, grid, expected):
    assert parse_settings(specs, grid) == expected


def test_a_grid_from_python():
    assert parse_settings(grid={"window_records": [5, 6]}) == [CoBa(5), CoBa(6)]


@pytest.mark.parametrize(
    ("specs", "grid", "complaint"),
    [
        (["cobra"], [], r"one of coba, dwa, .* got 'cobra'. Choose"),
        (["pcgrad"], [], "got 'pcgrad'. It needs more than a log of losses tells"),
        (["famo_star"], [], "got 'famo_star'. It needs more"),
        (["coba:window=5"], [], "no field 'window'. The fields are: window_records, warmup_records"),
        (["coba:window_records=1"], [], "`CoBa.window_records` must be an integer >= 2"),
        (["window_records=3"], [], "one of coba, .* got 'window_records=3'"),
        (["fixed"], [], r"must be given weights. Type for example fixed:weights=\[3,1\]"),
        ([], ["window=5"], "`--set` must name a field of CoBa; got 'window'. The fields are: window_records"),
        (["uniform"], ["window_records=5"], "field of Uniform; .* The fields are: none"),
        ([], ["window_records"], "must be FIELD=VALUE"),
        ([], ["window_records=five"], "must be an integer"),
    ],
)
def test_what_is_typed_wrong_is_answered_with_what_is_right(specs, grid, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_settings(specs, grid)


# ---------------------------------------------------------------- where nothing was asked for


def test_the_grid_begins_with_the_runs_own_setting():
    own = CoBa(7, 4, 3.0)
    settings = default_settings(own, num_records=40)
    assert next(iter(settings.items())) == ("CoBa window 7, warm-up 4, temperature 3 (the run)", own)
    assert len(settings) == 28
    assert next(iter(default_settings(None, 40))) == "CoBa (default)"
    assert len(default_settings(None, 40)) == 27  # the default is one of the grid


@pytest.mark.parametrize(("num_records", "windows", "warmups"), [(3, {10, 5}, {3, 2}), (12, {5, 10, 20}, {2, 3, 5})])
def test_what_a_short_run_cannot_tell_apart_is_not_tried(num_records, windows, warmups):
    settings = default_settings(None, num_records).values()
    assert {setting.window_records for setting in settings} == windows
    assert {setting.warmup_records for setting in settings} == warmups


def test_the_released_form_is_tried_where_it_is_legal():
    settings = list(default_settings(CoBa(form="mftcoder"), 40).values())
    assert len(settings) > 5
    assert all(setting.form == "mftcoder" for setting in settings)


def test_names_tell_settings_apart():
    settings = [CoBa(), CoBa(temperature=1.0), LBTW(source="held_out"), Fixed({"a": 3, "b": 1.5})]
    assert list(name_settings(settings)) == ["CoBa", "CoBa temperature 1", "LBTW*", 'Fixed weights {"a": 3, "b": 1.5}']
