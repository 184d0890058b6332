from itertools import pairwise

import numpy as np
import pytest

from lightning_coba.data.planning.mixing import Mixing, mixed_order
from lightning_coba.data.planning.planner import BATCHINGS, WINDOW_STEPS, Planner

MEANS = (50, 338, 182, 273, 68)
KINDS = [
    {"batching": "grouped", "step_size": 8},
    {"batching": "random", "step_size": 8},
    {"batching": "packed", "step_size": 4, "sequence_tokens": 512},
    {"batching": "grouped", "step_size": 2, "batch_tokens": 1024},
    {"batching": "random", "step_size": 2, "batch_tokens": 1024},
]
IDS = ["grouped", "random", "packed", "grouped budget", "random budget"]


def lengths(sizes=(900, 400, 300, 250, 150), seed=0):
    """Log-normal lengths of five tasks with these means."""
    generator = np.random.default_rng(seed)
    return [
        np.clip(generator.lognormal(np.log(mean), 0.4, size), 4, 512).astype(np.int32)
        for mean, size in zip(MEANS, sizes, strict=False)
    ]


def planner(tokens=None, mixing=None, seed=0, epoch="all", **options):
    tokens = lengths() if tokens is None else tokens
    options = options or KINDS[0]
    return Planner(tokens, mixing or Mixing(), epoch, seed=seed, **options)


def steps(plan):
    """Split the rows of a plan into its steps."""
    bounds = plan.sequences[plan.steps]
    return [plan.rows[begin:end] for begin, end in pairwise(bounds)]


def useful_share(made, epoch=0, num_parts=1):
    """Tokens of rows among all tokens of padded micro-batches."""
    used = read = 0
    first = sum(made.num_steps(i) for i in range(epoch))
    for number in range(made.num_steps(epoch)):
        for part in made.parts(first + number, num_parts):
            if len(part.rows):
                tokens = np.array([made._lengths[made._first[task] + row] for task, row in part.rows])
                widths = np.add.reduceat(tokens, part.sequences[:-1])
                used += tokens.sum()
                read += widths.max() * len(widths)
    return used / read


@pytest.mark.parametrize("options", KINDS, ids=IDS)
def test_plan_is_a_pure_function_of_seed_and_epoch(options):
    first = planner(**options).plan(3)
    made = planner(**options)
    made.plan(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, made.plan(3), strict=True))
    assert not np.array_equal(first.rows, made.plan(4).rows)
    assert not np.array_equal(first.rows, planner(seed=1, **options).plan(3).rows)


@pytest.mark.parametrize("options", KINDS, ids=IDS)
@pytest.mark.parametrize("epoch", [0, 2])
def test_an_epoch_holds_the_mixture_whatever_the_batching(options, epoch):
    tokens = lengths()
    mixing = Mixing("temperature")
    made = planner(tokens, mixing, **options)
    wanted = mixed_order([len(task) for task in tokens], mixing, 0, epoch, made.num_rows)
    assert sorted(map(tuple, made.plan(epoch).rows.tolist())) == sorted(map(tuple, wanted.tolist()))


def test_steps_have_their_rows_and_only_the_last_is_short():
    sizes = [len(step) for step in steps(planner(batching="grouped", step_size=7).plan(0))]
    assert sizes[:-1] == [7] * (len(sizes) - 1)
    assert sizes[-1] == 2000 % 7


@pytest.mark.parametrize("options", KINDS, ids=IDS)
@pytest.mark.parametrize("num_parts", [1, 2, 4, 8])
def test_a_step_is_cut_into_exactly_so_many_parts_and_stays_the_same(options, num_parts):
    made = planner(**options)
    whole = steps(made.plan(0))
    for number in (0, 5, made.num_steps(0) - 1):
        parts = made.parts(number, num_parts)
        assert len(parts) == num_parts
        assert np.array_equal(np.concatenate([part.rows for part in parts]), whole[number])
        for part in parts:
            assert part.sequences[-1] == len(part.rows)


def test_a_step_with_fewer_rows_than_parts_leaves_some_empty():
    made = planner([np.array([3, 4, 5])], batching="grouped", step_size=8)
    assert [len(part.rows) for part in made.parts(0, 4)] == [0, 1, 1, 1]


def test_step_size_alone_says_what_a_step_holds():
    tokens = lengths()
    made = planner(tokens, batching="grouped", step_size=16)
    rows = [{tuple(row) for part in made.parts(9, n) for row in part.rows.tolist()} for n in (1, 2, 4, 8)]
    assert all(found == rows[0] for found in rows)


@pytest.mark.parametrize("options", KINDS, ids=IDS)
def test_steps_run_on_over_the_epochs(options):
    made = planner(lengths((30, 12, 9, 7, 5)), **options)
    stream = [made.step(number).rows for number in range(made.num_steps(0) + made.num_steps(1) + 1)]
    expected = [step for epoch in range(3) for step in steps(made.plan(epoch))]
    for found, wanted in zip(stream, expected, strict=False):
        assert np.array_equal(found, wanted)
    assert made.num_steps(0) + made.num_steps(1) < len(expected)


def test_grouping_saves_the_padding():
    assert useful_share(planner(batching="random", step_size=16)) < 0.5
    assert useful_share(planner(batching="grouped", step_size=16)) > 0.95
    assert useful_share(planner(lengths((9000, 4000, 3000, 2500, 1500)), batching="grouped", step_size=8)) > 0.97
    assert useful_share(planner(batching="grouped", step_size=2, batch_tokens=2048), num_parts=2) > 0.95


@pytest.mark.parametrize("rule", ["uniform", "stratified"])
def test_grouping_keeps_the_copies_of_a_row_apart(rule):
    tokens = lengths((2000, 500, 100), seed=2)
    made = planner(tokens, Mixing(rule), batching="grouped", step_size=16)
    together = [np.unique(step, axis=0, return_counts=True)[1].max() for step in steps(made.plan(0))]
    # Where the first copies end and the second begin, a step may hold both.
    assert np.mean(np.array(together) == 1) > 0.9
    assert max(together) <= 2
    if rule == "uniform":  # the first copies of three tasks, then of two, then of one
        assert useful_share(made) > 0.92


def test_packing_leaves_next_to_nothing():
    made = planner(batching="packed", step_size=4, sequence_tokens=1024)
    assert useful_share(made) > 0.99
    for step in range(made.num_steps(0)):
        for part in made.parts(step, 4):
            widths = [
                sum(made._lengths[made._first[task] + row] for task, row in part.rows[begin:end])
                for begin, end in pairwise(part.sequences)
            ]
            assert max(widths, default=0) <= 1024


@pytest.mark.parametrize("batching", ["grouped", "random"])
def test_token_budget_holds_in_every_micro_batch(batching):
    made = planner(batching=batching, step_size=4, batch_tokens=1024)
    for step in range(made.num_steps(0)):
        for part in made.parts(step, 4):
            tokens = [made._lengths[made._first[task] + row] for task, row in part.rows]
            assert max(tokens, default=0) * len(tokens) <= 1024


def test_row_longer_than_the_budget_is_a_micro_batch_of_its_own():
    with pytest.warns(UserWarning, match=r"longest row has 300 tokens, more than `batch_tokens`=60"):
        made = planner([np.array([300, 20, 20, 20])], batching="grouped", step_size=1, batch_tokens=60)
    assert sorted(len(step) for step in steps(made.plan(0))) == [1, 3]


@pytest.mark.parametrize("rule", ["round_robin", "stratified"])
def test_grouping_keeps_the_tasks_of_a_step_where_they_take_turns(rule):
    made = planner(mixing=Mixing(rule), batching="grouped", step_size=15)
    for step in steps(made.plan(0))[:-1]:
        assert np.bincount(step[:, 0], minlength=5).tolist() == [3] * 5
    ungrouped = planner(mixing=Mixing(rule), batching="random", step_size=15)
    assert useful_share(made, num_parts=5) > useful_share(ungrouped, num_parts=5) + 0.05


def test_steps_of_a_window_come_in_random_order():
    made = planner(batching="grouped", step_size=8)
    widths = [max(made._lengths[made._first[task] + row] for task, row in step) for step in steps(made.plan(0))]
    first = np.array(widths[:WINDOW_STEPS])
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.3
    assert first.max() > 4 * first.min()


def test_grouping_keeps_the_mixture_of_every_window():
    tokens = lengths((9000, 4000, 3000, 2500, 1500))
    made = planner(tokens, batching="grouped", step_size=8)
    shares = np.array([len(task) for task in tokens]) / made.num_rows
    for window in np.split(made.plan(0).rows, range(0, made.num_rows, WINDOW_STEPS * 8))[1:-1]:
        assert np.abs(np.bincount(window[:, 0], minlength=5) / len(window) - shares).max() < 0.01


@pytest.mark.parametrize("options", [KINDS[2], KINDS[3]], ids=["packed", "budget"])
def test_turns_need_steps_of_a_fixed_number_of_rows(options):
    assert "packed" in BATCHINGS
    with pytest.raises(ValueError, match="`mixing` must be proportional, temperature, uniform or weighted"):
        planner(mixing=Mixing("round_robin"), **options)


def test_planning_has_no_python_loop_over_rows(calls_of):
    made = planner(lengths((50_000, 20_000, 10_000, 12_000, 8_000)), batching="grouped", step_size=16)
    plan, calls = calls_of(lambda: made.plan(7))
    assert len(plan.rows) == 100_000
    assert calls < 5_000
