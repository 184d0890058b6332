import numpy as np
import pytest
from written_runs import result

from lightning_coba.reports import compare, group_suites
from lightning_coba.reports.comparison.effects import difference_in_words, effect, shown
from lightning_coba.reports.comparison.headline import headline, reading
from lightning_coba.reports.comparison.times import busy_machine, times_in_words
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
    assert effect(found, "test_loss", 0).mean == pytest.approx(-0.1 / 3)
    assert found.notes == []


def runs_of(method, losses, **options):
    """Return a run per seed; `losses` are those of task a, and task b loses twice as much."""
    return [(method, seed, {"a": loss, "b": 2 * loss}, options) for seed, loss in enumerate(losses, 1)]


UNIFORM = runs_of("Uniform", [1.00, 1.01, 0.99, 1.02, 0.98])


def test_a_difference_that_exceeds_what_seeds_differ_by_is_shown(comparison):
    found = comparison(*UNIFORM, *runs_of("CoBa", [0.951, 0.962, 0.939, 0.97, 0.929]))
    [answer] = headline(found)
    assert answer.startswith("CoBa is better than Uniform: test loss 5.0 % lower")
    assert "2 tasks and 5 seeds, 96 % interval -5." in answer
    assert shown(found, "test_loss", 0) == "better"
    worse = comparison(*UNIFORM, *runs_of("CoBa", [1.06, 1.07, 1.04, 1.07, 1.03]))
    assert headline(worse)[0].startswith("CoBa is worse than Uniform")


def test_a_difference_within_what_seeds_differ_by_is_not_shown(comparison):
    found = comparison(*UNIFORM, *runs_of("CoBa", [0.90, 1.05, 0.95, 1.04, 0.97]))
    [answer] = headline(found)
    assert answer.startswith("CoBa: no difference shown. Test loss 1.8 % lower")
    assert "no more than seeds and tasks differ by" in answer
    assert "is better" not in answer


def test_what_no_printed_digit_shows_is_no_difference(comparison):
    found = comparison(*UNIFORM, *runs_of("CoBa", [0.9998 * run[2]["a"] for run in UNIFORM]))
    assert shown(found, "test_loss", 0) == "no difference shown"
    assert "less than 0.1 %" in headline(found)[0]
    assert "0.0 .. " not in headline(found)[0]


def test_two_methods_that_are_one_are_said_to_be(comparison):
    found = comparison(*UNIFORM, *runs_of("CoBa", [run[2]["a"] for run in UNIFORM]))
    [answer] = headline(found)
    assert "changed nothing" in answer
    assert "to the last digit" in answer


def test_fewer_than_three_seeds_show_nothing_and_the_command_adds_some(comparison):
    answer, more = headline(comparison(*UNIFORM[:2], *runs_of("CoBa", [0.5, 0.5])))
    assert "no difference shown" in answer
    assert "interval" not in answer
    assert "seed=1,2,3,4,5" in more


def test_intervals_of_many_methods_hold_at_once(comparison):
    losses = [0.96, 1.0, 0.96, 1.0, 0.97]
    alone = comparison(*UNIFORM, *runs_of("CoBa", losses))
    others = [run for method in ("FAMO", "LBTW", "DWA", "UW") for run in runs_of(method, losses)]
    among = comparison(*UNIFORM, *runs_of("CoBa", losses), *others)
    one, many = (effect(found, "test_loss", found.methods.index("CoBa")) for found in (alone, among))
    assert one.mean == pytest.approx(many.mean)
    assert many.low < one.low
    assert shown(alone, "test_loss", 0) == "better"
    assert shown(among, "test_loss", among.methods.index("CoBa")) == "no difference shown"
    assert "no difference shown: " in headline(among)[-1]


def test_a_lower_loss_that_is_no_better_accuracy_is_said(comparison):
    flat = {"others": {"test_token_accuracy": {"a": 0.5, "b": 0.6}}}
    found = comparison(
        *runs_of("Uniform", [1.00, 1.01, 0.99, 1.02, 0.98], others={"test_token_accuracy": {"a": 0.5, "b": 0.61}}),
        *runs_of("CoBa", [0.951, 0.962, 0.939, 0.97, 0.929], **flat),
    )
    _, accuracy = headline(found)
    assert "token accuracy: no difference shown (-0.5 points" in accuracy
    assert "not seen in them" in accuracy


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


def test_without_coba_the_first_method_is_the_subject_and_the_others_are_listed(comparison):
    lower = [0.951, 0.962, 0.939, 0.97, 0.929]
    answer, every = headline(comparison(*UNIFORM, *runs_of("FAMO", lower), *runs_of("LBTW", [1.2] * 5)))
    assert answer.startswith("FAMO is better than Uniform")
    assert "better: FAMO; worse: LBTW" in every


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
    accuracy = {"others": {"test_token_accuracy": {"a": 0.5}}}
    found = comparison(("CoBa", 1, {"a": 1.0}, accuracy), ("Uniform", 1, {"a": 2.0}))
    np.testing.assert_array_equal(found.results["test_token_accuracy"].values, [[[0.5]], [[np.nan]]])


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
    assert difference_in_words(found, "test_f1", effect(found, "test_f1", 0).mean) == "+0.150"
    assert "Test_f1 0.150 higher than that of Uniform" in headline(found)[0]


def test_times_of_a_busy_machine_or_of_runs_at_once_are_left_out(comparison):
    def timed(method, seconds, **timing):
        card = {"timing": {"seconds_per_step": seconds, "steps": 40, "threads": 2, "host": "x", **timing}}
        return (method, 1, {"a": 1.0 + seconds}, {"card": card})

    quiet = comparison(
        timed("Uniform", 1.0, load=2.1, began=0, ended=9), timed("CoBa", 1.5, load=2.0, began=10, ended=19)
    )
    assert times_in_words(quiet) == ["—", "1.50x"]
    equal = comparison(timed("Uniform", 1.0, load=2.1), timed("CoBa", 1.05, load=2.0))
    assert times_in_words(equal) == ["—", "about equal"]
    busy = comparison(timed("Uniform", 1.0, load=2.1), timed("CoBa", 1.5, load=4.0))
    assert times_in_words(busy) == ["—", "—"]
    assert "busy" in busy_machine(busy)
    assert "2.0" in busy_machine(busy)
    at_once = comparison(timed("Uniform", 1.0, began=0, ended=9), timed("CoBa", 1.5, began=8, ended=19))
    assert "at the same time" in busy_machine(at_once)


def test_small_changes_have_no_minus_zero():
    assert [percent(x) for x in (-0.0004, 0.0004, -0.0006)] == ["0.0 %", "0.0 %", "-0.1 %"]


def test_a_loss_that_rose_from_0_is_not_called_the_same(comparison):
    runs = [(method, seed, {"a": 1.0, "b": b}) for seed in (1, 2, 3) for method, b in (("Uniform", 0.0), ("CoBa", 0.5))]
    found = comparison(*runs)
    assert shown(found, "test_loss", found.methods.index("CoBa")) == "no difference shown"
    assert "uniform weights reach 0 there: b." in said(found)


def test_without_any_relative_change_the_headline_says_why(comparison):
    runs = [(method, seed, {"a": loss}) for seed in (1, 2, 3) for method, loss in (("Uniform", 0.0), ("CoBa", 0.5))]
    assert "test loss is 0" in headline(comparison(*runs))[0]


def test_a_steady_difference_below_the_printed_digits_is_not_blamed_on_the_seeds(comparison):
    [sentence] = headline(comparison(*runs_of("Uniform", [7.807] * 3), *runs_of("CoBa", [7.808] * 3)))
    assert "no difference shown" in sentence
    assert "too small" in sentence
    assert "seeds and tasks differ" not in sentence
