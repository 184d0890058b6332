import pytest

from lightning_coba.reports import group_suites
from lightning_coba.runs import read_run

LOSS = {"a": 1.0, "b": 2.0}


@pytest.fixture
def suite(write_run):
    """Group runs that were written one by one; exactly one suite comes out."""
    runs = []

    def write(*arguments, **options):
        runs.append(read_run(write_run(*arguments, **options)))
        return runs[-1]

    def group():
        [found] = group_suites(runs)
        return found

    write.group = group
    return write


def labels(suite):
    return sorted(set(suite.labels.values()))


def test_method_and_seed_alone_do_not_split_a_suite(suite):
    runs = [suite(method, seed, LOSS) for method in ("CoBa", "Uniform") for seed in (1, 2)]
    [group] = suite.group().groups
    assert set(group.runs) == set(runs)
    assert group.settings == {}
    assert labels(suite.group()) == ["CoBa", "Uniform"]


def test_a_method_with_two_settings_is_two_methods(suite):
    for temperature in (2.0, 5.0):
        suite("CoBa", 1, LOSS, balancer={"temperature": temperature})
    suite("Uniform", 1, LOSS)
    assert labels(suite.group()) == ["CoBa (temperature=2.0)", "CoBa (temperature=5.0)", "Uniform"]


def test_settings_of_a_wrapped_balancer_are_named_without_its_wrapping(suite):
    for alpha in (0.5, 1.5):
        inner = {"_target_": "lightning_coba.balancers.GradNorm", "alpha": alpha}
        suite("GradNorm", 1, LOSS, balancer={"balancer": inner})
    assert labels(suite.group()) == ["GradNorm (alpha=0.5)", "GradNorm (alpha=1.5)"]


def test_another_learning_rate_is_another_group_the_larger_first(suite):
    suite("CoBa", 1, LOSS, optimizer={"lr": 0.1})
    for method in ("CoBa", "Uniform"):
        suite(method, 1, LOSS)
    large, small = suite.group().groups
    assert large.settings == {"optimizer.lr": "0.001"}
    assert small.settings == {"optimizer.lr": "0.1"}
    assert [len(group.runs) for group in (large, small)] == [2, 1]


def test_who_computes_and_what_watches_is_no_difference(suite):
    suite("CoBa", 1, LOSS, trainer={"devices": 1}, data={"eval_batch_size": 8})
    suite("Uniform", 1, LOSS, trainer={"devices": 4, "log_every_n_steps": 7}, data={"eval_batch_size": 2})
    assert len(suite.group().groups) == 1


def test_a_null_is_the_same_as_an_option_that_an_older_run_did_not_have(suite):
    suite("CoBa", 1, LOSS, data={"batch_tokens": None})
    suite("Uniform", 1, LOSS)
    assert len(suite.group().groups) == 1


def test_a_run_of_one_task_beside_runs_of_several_is_a_baseline(suite):
    several = suite("CoBa", 1, LOSS)
    alone = suite("Uniform", 1, {"a": 0.9}, data={"root": "suite/a"}, trainer={"max_steps": 7})
    other = suite("Uniform", 1, {"b": 0.9}, optimizer={"lr": 0.5})
    found = suite.group()
    [group] = found.groups
    assert (list(group.runs), list(group.single_task)) == ([several], [alone])
    assert "other settings" in found.left_out[other]


def test_runs_of_one_task_are_ordinary_where_no_run_has_more(suite):
    runs = {suite("CoBa", 1, {"a": 1.0}), suite("Uniform", 1, {"a": 1.1})}
    [group] = suite.group().groups
    assert set(group.runs) == runs
    assert not group.single_task


def test_a_second_run_of_the_same_is_left_out_with_the_first_named(suite):
    first, second = suite("CoBa", 1, LOSS), suite("CoBa", 1, LOSS)
    found = suite.group()
    assert list(found.groups[0].runs) == [first]
    assert str(first.folder) in found.left_out[second]


def test_unfinished_runs_are_left_out_and_make_no_group(suite):
    failed = suite("CoBa", 1, LOSS, card={"status": "failed", "error": "boom"}, optimizer={"lr": 9.0})
    suite("Uniform", 1, LOSS)
    found = suite.group()
    assert found.left_out == {failed: "boom"}
    assert [group.settings for group in found.groups] == [{}]


def test_a_run_without_configuration_is_left_out(suite, write_run):
    suite("Uniform", 1, LOSS)
    folder = write_run("CoBa", 1, LOSS)
    (folder / "config.yaml").unlink()
    unknown = read_run(folder)
    [found] = group_suites([*suite.group().groups[0].runs, unknown])
    assert "config.yaml" in found.left_out[unknown]
