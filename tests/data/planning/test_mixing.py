import numpy as np
import pytest

from lightning_coba.data.planning.mixing import MIXING_RULES, Mixing, epoch_rows, mixed_order

SIZES = [40, 7, 23, 1]
SHARED = ["proportional", "temperature", "uniform", "weighted"]  # laid out evenly
TURNS = ["round_robin", "stratified"]


def mix(rule="proportional", **options):
    if rule == "weighted":
        options.setdefault("sampling_weights", (1.0, 2.5, 3.0, 0.5))
    return Mixing(rule, **options)


def order(rule="proportional", epoch=0, seed=0, sizes=SIZES, step_rows=8, length="all", **options):
    mixing = mix(rule, **options)
    return mixed_order(sizes, mixing, seed, epoch, epoch_rows(sizes, mixing, length, step_rows))


def counts(rows, num_tasks=4):
    return np.bincount(rows[:, 0], minlength=num_tasks)


def test_every_rule_is_tested():
    assert set(SHARED + TURNS) == set(MIXING_RULES)


@pytest.mark.parametrize("rule", MIXING_RULES)
def test_order_is_a_pure_function_of_seed_and_epoch(rule):
    np.random.seed(1)
    first = order(rule, epoch=3)
    order(rule, epoch=9)
    np.random.seed(2)
    assert np.array_equal(first, order(rule, epoch=3))
    assert not np.array_equal(first, order(rule, epoch=4))
    assert not np.array_equal(first, order(rule, epoch=3, seed=1))


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_proportional_shows_every_row_once_an_epoch(epoch):
    expected = [(task, row) for task, size in enumerate(SIZES) for row in range(size)]
    assert sorted(map(tuple, order(epoch=epoch).tolist())) == expected


@pytest.mark.parametrize("rule", SHARED)
def test_tasks_are_laid_out_evenly(rule):
    sizes = [300, 100, 20, 180]
    tasks = order(rule, sizes=sizes)[:, 0]
    for task in range(4):
        seen = np.cumsum(tasks == task)
        share = seen[-1] / len(tasks)
        # Every prefix holds a task's share: one row off for the task itself, one for each of the others.
        assert np.abs(seen - share * np.arange(1, len(tasks) + 1)).max() <= 4


@pytest.mark.parametrize("rule", SHARED)
def test_layout_differs_between_epochs(rule):
    # Otherwise the same task would open every epoch, and the same tasks would always meet in a step.
    assert len({order(rule, epoch)[0, 0] for epoch in range(20)}) > 1


@pytest.mark.parametrize("rule", MIXING_RULES)
@pytest.mark.parametrize("length", ["all", 3, "largest"])
def test_no_row_is_repeated_before_its_task_was_seen_whole(rule, length):
    stream = np.concatenate([order(rule, epoch, length=length) for epoch in range(9)])
    for task, size in enumerate(SIZES):
        rows = stream[stream[:, 0] == task, 1]
        for start in range(0, len(rows), size):
            cycle = rows[start : start + size]
            assert len(np.unique(cycle)) == len(cycle)


@pytest.mark.parametrize("temperature", [1, 2, 5])
def test_temperature_mixes_as_the_root_of_the_sizes(temperature):
    sizes = [90_000, 10_000, 2_500, 400]
    shares = counts(order("temperature", sizes=sizes, temperature=temperature)) / sum(sizes)
    expected = np.array(sizes) ** (1 / temperature)
    expected = expected / expected.sum()
    assert np.abs(shares / expected - 1).max() < 0.01


def test_weighted_mixes_as_it_is_told():
    weights = (0.5, 0.2, 0.25, 0.05)
    rows = order("weighted", sizes=[5000, 300, 40, 2000], sampling_weights=weights)
    assert np.abs(counts(rows) / len(rows) / np.array(weights) - 1).max() < 0.01


def test_uniform_gives_equal_counts_up_to_a_remainder_that_rotates():
    found = np.stack([counts(order("uniform", epoch)) for epoch in range(40)])
    assert (found.sum(axis=1) == sum(SIZES)).all()
    assert np.abs(found - sum(SIZES) / 4).max() < 1
    assert np.abs(found.sum(axis=0) - 40 * sum(SIZES) / 4).max() <= 2


def test_proportional_shares_hold_in_the_long_run_of_short_epochs():
    found = sum(counts(order(epoch=epoch, length=1, step_rows=10)) for epoch in range(200))
    assert np.abs(found - np.array(SIZES) * 2000 / sum(SIZES)).max() <= 3


def test_caps_and_repeats_change_what_an_epoch_takes():
    rows = order(max_rows=(10, None, 50, None), repeats=(1, 3, 0.5, 8))
    assert counts(rows).tolist() == [10, 21, 12, 8]  # 11.5 rows of the third, rounded
    assert len(rows) == 51  # 10 + 21 + 11.5 + 8, rounded up
    stream = np.concatenate([order(epoch=epoch, max_rows=(10, None, None, None)) for epoch in range(4)])
    assert sorted(stream[stream[:, 0] == 0, 1]) == list(range(40))  # a cap shows other rows every epoch


def test_round_robin_takes_one_row_of_each_task_in_turn():
    first, second = order("round_robin")[:, 0], order("round_robin", epoch=1)[:, 0]
    assert np.concatenate([first, second]).tolist() == [i % 4 for i in range(2 * sum(SIZES))]


@pytest.mark.parametrize("step_rows", [4, 6, 8, 9])
def test_stratified_puts_every_task_into_every_step(step_rows):
    extra = np.zeros(4)
    for epoch in range(4):
        tasks = order("stratified", epoch, step_rows=step_rows)[:, 0]
        assert len(tasks) % step_rows == 0
        assert 0 <= len(tasks) - sum(SIZES) < step_rows
        for step in tasks.reshape(-1, step_rows):
            found = np.bincount(step, minlength=4)
            assert set(found) <= {step_rows // 4, -(-step_rows // 4)}
            extra += found - step_rows // 4
    assert extra.max() - extra.min() <= 1


@pytest.mark.parametrize(
    ("rule", "length", "rows"),
    [
        ("proportional", "all", 71),
        ("proportional", "largest", 71),
        ("proportional", "smallest", 71),
        ("uniform", "largest", 160),  # the task of 40 rows has a quarter of them
        ("uniform", "smallest", 4),
        ("weighted", "largest", 280),  # 40 rows of weight 1 of 7
        ("weighted", "smallest", 14),  # 1 row of weight 0.5
        ("round_robin", 5, 40),
    ],
)
def test_length_of_an_epoch(rule, length, rows):
    assert epoch_rows(SIZES, mix(rule), length, step_rows=8) == rows


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"rule": "random"}, "`mixing` must be one of proportional, temperature.*; got 'random'"),
        ({"rule": "temperature", "temperature": 0.0}, "`mixing_temperature` must be above 0; got 0"),
        ({"rule": "weighted"}, "`sampling_weights` must be given with mixing='weighted'.*got none"),
        ({"rule": "uniform", "sampling_weights": (1.0,)}, "got them with mixing='uniform'"),
        ({"rule": "weighted", "sampling_weights": (1.0, 0.0)}, "`sampling_weights` must be above 0"),
    ],
)
def test_rules_are_checked(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        Mixing(**arguments)


def test_lengths_are_checked():
    for sizes in ([3, 0], []):
        with pytest.raises(ValueError, match="`sizes` must be at least one row per task"):
            epoch_rows(sizes, Mixing())
    for epoch in ("half", 0, True, 1.5):
        with pytest.raises(ValueError, match="`epoch` must be 'all', 'largest', 'smallest' or a number"):
            epoch_rows(SIZES, Mixing(), epoch)
    for step_rows in (3, None):
        with pytest.raises(ValueError, match=f"4 tasks; it has {step_rows}. Raise MultitaskDataModule.batch_size"):
            epoch_rows(SIZES, Mixing("stratified"), step_rows=step_rows)


@pytest.mark.parametrize("rule", MIXING_RULES)
def test_one_task_alone_is_a_permutation(rule):
    rows = order(rule, sizes=[16], **({"sampling_weights": (2.0,)} if rule == "weighted" else {}))
    assert (rows[:, 0] == 0).all()
    assert sorted(rows[:, 1]) == list(range(16))


@pytest.mark.parametrize("rule", MIXING_RULES)
def test_mixing_has_no_python_loop_over_rows(rule, calls_of):
    rows, calls = calls_of(lambda: order(rule, epoch=50, sizes=[50_000, 20_000, 20_000, 10_000]))
    assert len(rows) >= 100_000
    assert calls < 6_000
