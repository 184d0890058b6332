import numpy as np
import pytest
from written_runs import result

from lightning_coba.reports import compare, group_suites
from lightning_coba.reports.comparison.headline import headline, reading
from lightning_coba.reports.formats import percent
from lightning_coba.runs import read_run


@pytest.fixture
def comparison(write_run):
    """Compare runs given as (method, seed, {task: loss}, options)."""

    def build(*runs):
        folders = [write_run(method, seed, loss, **(rest[0] if rest else {})) for method, seed, loss, *rest in runs]
        [suite] = group_suites(map(read_run, folders))
        return compare(suite, suite.groups[0])

    return build


def said(found):
    return " ".join(found.notes)


TWO_SEEDS = [
    ("Uniform", 1, {"a": 1.0, "b": 4.0, "c": 2.0}, {"seconds": 0.2, "best": {"a": 10, "b": 30, "c": 30}}),
    ("Uniform", 2, {"a": 3.0, "b": 4.0, "c": 2.0}, {"seconds": 0.2}),
    ("CoBa", 1, {"a": 0.9, "b": 4.4, "c": 1.8}, {"seconds": 0.3}),
    ("CoBa", 2, {"a": 2.7, "b": 4.4, "c": 1.8}, {"seconds": 0.3}),
]


def test_numbers_of_a_small_sweep_by_hand(comparison):
    found = comparison(*TWO_SEEDS)
    assert (found.methods, found.seeds, found.tasks) == (["CoBa", "Uniform"], [1, 2], ["a", "b", "c"])
    assert found.reference == 1
    np.testing.assert_allclose(found.mean, [[7.1 / 3, 8.9 / 3], [7 / 3, 9 / 3]])
    np.testing.assert_allclose(found.changes, [[-0.1, 0.1, -0.1], [0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(found.mean_ranks, [(1 + 2 + 1) / 3, (2 + 1 + 2) / 3])
    np.testing.assert_allclose(found.relative_time, [1.5, 1])
    np.testing.assert_allclose(found.best_step_spreads, [[0, 0], [0.5, 0]])
    assert found.worst_base == "before training"
    assert found.worst(0)[1] == pytest.approx(0.5 * 1.0)  # the untrained model loses twice as much
    assert found.interval(0) == pytest.approx((-0.1, 0.1))
    assert found.notes == []


def test_the_headline_says_what_the_numbers_say(comparison):
    [answer] = headline(comparison(*TWO_SEEDS))
    assert answer == (
        "CoBa: test loss 3.3 % lower than Uniform on average over 3 tasks and 2 seeds "
        "(95 % interval over tasks -10.0 .. +10.0 %); lower on 2 of 3 tasks; 1.50x the time per step. "
        "The interval includes 0: other tasks could turn the difference round."
    )


def test_a_difference_on_every_task_leaves_zero_out_of_the_interval(comparison):
    base = {"a": 1.0, "b": 2.0, "c": 3.0}
    worse = {task: 1.1 * loss for task, loss in base.items()}
    answer, chance = headline(comparison(("Uniform", 1, base), ("CoBa", 1, worse)))
    assert "10.0 % higher than Uniform" in answer
    assert "lower on 0 of 3 tasks" in answer
    assert "leaves 0 out" in answer
    assert "time" not in answer  # was not recorded
    assert chance.startswith("One seed")


def test_two_tasks_have_no_interval(comparison):
    answer, _ = headline(comparison(("Uniform", 1, {"a": 1.0, "b": 1.0}), ("CoBa", 1, {"a": 0.5, "b": 1.0})))
    assert "25.0 % lower" in answer
    assert "fewer than 3 tasks" in answer
    assert "interval over" not in answer


def test_without_uniform_the_command_that_adds_it(comparison):
    found = comparison(("CoBa", 4, {"a": 1.0}), ("FAMO", 4, {"a": 0.9}))
    assert found.changes is None
    assert np.isnan(found.relative_time).all()
    add, lowest = headline(found)
    assert "coba-train -m ... balancer=uniform seed=4" in add
    assert "FAMO (0.900)" in lowest


def test_uniform_alone_has_nothing_to_be_compared_with(comparison):
    [answer] = headline(comparison(("Uniform", 1, {"a": 1.0, "b": 2.0})))
    assert "nothing to compare" in answer


def test_without_coba_the_best_method_is_the_subject_and_named_as_picked(comparison):
    runs = [("Uniform", 1, {"a": 1.0}), ("FAMO", 1, {"a": 0.9}), ("LBTW", 1, {"a": 0.8})]
    answer, picked, _ = headline(comparison(*runs))
    assert answer.startswith("LBTW: test loss 20.0 % lower")
    assert "LBTW (-20.0 % on average)" in picked
    assert "picked after looking" in picked


def test_where_uniform_is_best_it_says_so(comparison):
    runs = [("Uniform", 1, {"a": 1.0}), ("FAMO", 1, {"a": 1.2}), ("CoBa", 1, {"a": 1.1})]
    answer, picked, _ = headline(comparison(*runs))
    assert "CoBa: test loss 10.0 % higher" in answer
    assert "None of the 2 other methods" in picked


def test_different_seeds_are_compared_on_the_common_ones_and_the_missing_are_named(comparison):
    loss = {"a": 1.0, "b": 2.0}
    found = comparison(*(("Uniform", seed, loss) for seed in (1, 2, 3)), ("CoBa", 2, loss), ("CoBa", 3, loss))
    assert found.seeds == [2, 3]
    assert found.after.shape == (2, 2, 2)
    assert "CoBa seed 1" in said(found)


def test_no_common_seed_leaves_out_the_method_that_lacks_the_most_common_one(comparison):
    loss = {"a": 1.0}
    found = comparison(("Uniform", 1, loss), ("CoBa", 1, loss), ("FAMO", 2, loss))
    assert (set(found.methods), found.seeds) == ({"Uniform", "CoBa"}, [1])
    assert "without FAMO" in said(found)


def test_different_tasks_are_compared_on_the_common_ones(comparison):
    found = comparison(("Uniform", 1, {"a": 1.0, "b": 2.0}), ("CoBa", 1, {"b": 1.0, "c": 5.0}))
    assert found.tasks == ["b"]
    assert "without c, a" in said(found)
    np.testing.assert_allclose(found.changes, [[-0.5], [0]])


def test_no_common_task_is_no_comparison(comparison):
    assert comparison(("Uniform", 1, {"a": 1.0, "b": 1.0}), ("CoBa", 1, {"c": 1.0, "d": 1.0})) is None


def test_single_task_runs_are_the_base_of_the_worst_task(comparison):
    found = comparison(
        ("Uniform", 1, {"a": 1.0, "b": 2.0}),
        ("Uniform", 1, {"a": 0.8}),
        ("Uniform", 1, {"b": 1.9}),
        ("Uniform", 2, {"b": 9.0}),  # not a seed that is compared
    )
    assert found.methods == ["Uniform"]
    np.testing.assert_allclose(found.single_task, [0.8, 1.9])
    np.testing.assert_allclose(found.changes_against_single_task, [[0.25, 2 / 1.9 - 1]])
    assert found.worst(0) == ("a", pytest.approx(1.25))
    assert "run on that task alone" in reading("worst task", found)


def test_missing_single_tasks_are_named_and_leave_the_worst_task_to_the_untrained_model(comparison):
    before = {"a": 4.0, "b": 2.5}
    found = comparison(("Uniform", 1, {"a": 1.0, "b": 2.0}, {"before": before}), ("Uniform", 7, {"a": 0.8}))
    assert found.worst(0) == ("b", 0.8)
    assert "No single-task run of b" in said(found)
    assert "single-task runs of a do not have all" in said(found)


def test_what_makes_times_or_data_incomparable_is_noted(comparison):
    loss = {"a": 1.0, "b": 2.0}
    found = comparison(
        ("Uniform", 1, loss, {"trainer": {"accelerator": "cpu"}, "data": {"root": "here"}}),
        ("CoBa", 1, loss, {"trainer": {"accelerator": "cuda"}, "data": {"root": "there"}}),
    )
    assert "trainer.accelerator: times are not comparable" in said(found)
    assert "several places; are they the same? here, there" in said(found)


def test_curves_are_means_over_seeds_at_the_steps_that_all_have(comparison):
    loss = {"a": 1.0}
    found = comparison(("CoBa", 1, loss, {"best": {"a": 40}}), ("CoBa", 2, loss, {"best": {"a": 20}}))
    steps, values = found.curves["CoBa"]["a"]
    assert steps.tolist() == [10, 20, 30, 40]
    np.testing.assert_allclose(values, [1 + (0.3 + 0.1) / 2, 1 + (0.2 + 0.0) / 2, 1.1, 1.1])


def test_metrics_that_only_some_runs_have_are_missing_in_the_others(comparison):
    accuracy = {"others": {"test_accuracy": {"a": 0.5}}}
    found = comparison(("CoBa", 1, {"a": 1.0}, accuracy), ("Uniform", 1, {"a": 2.0}))
    np.testing.assert_array_equal(found.results["test_accuracy"].values, [[[0.5]], [[np.nan]]])


def test_where_higher_is_better_the_highest_is_first_and_a_rise_is_a_gain(comparison):
    def scores(values):
        return {"card": {"results": {"test_f1": result(values, "max")}, "results_before": {}}}

    loss = {"a": 1.0, "b": 1.0}
    found = comparison(
        ("CoBa", 1, loss, scores({"a": 0.8, "b": 0.5})), ("Uniform", 1, loss, scores({"a": 0.4, "b": 0.6}))
    )
    assert (found.key, found.better, found.methods) == ("test_f1", "max", ["CoBa", "Uniform"])
    np.testing.assert_allclose(found.changes[0], [1.0, -1 / 6])
    assert found.is_better(found.changes[0]).tolist() == [True, False]
    assert found.mean_ranks.tolist() == [1.5, 1.5]
    assert headline(found)[0].startswith("CoBa: test_f1 41.7 % higher than Uniform on average over 2 tasks")
    assert "higher on 1 of 2 tasks" in headline(found)[0]


def test_small_changes_have_no_minus_zero():
    assert [percent(x) for x in (-0.0004, 0.0004, -0.0006)] == ["0.0 %", "0.0 %", "-0.1 %"]
