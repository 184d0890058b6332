import math

import numpy as np
import pytest
import reference_methods as reference
import torch

from lightning_coba.balancers import FAMO, LBTW, GradNorm, MetaWeighting, replay

#: Float64 from end to end: one float32 quotient on the way would show.
TOLERANCE = 1e-10
RECORDS = 150
NUM_TASKS = [1, 2, 5, 12]
WHOLE_OR_BROKEN = pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])


def agree(weights, wanted):
    np.testing.assert_allclose(weights, wanted, rtol=0, atol=TOLERANCE)


def scales(rng, num_tasks):
    return 10.0 ** rng.uniform(-3, 3, num_tasks)


def falling_curves(rng, num_tasks, num_records=RECORDS):
    """Losses of very different size that fall at different speeds; the first task of several diverges later on."""
    t = np.arange(num_records)[:, None]
    clean = rng.uniform(0.1, 1, num_tasks) + np.exp(-rng.uniform(0.002, 0.05, num_tasks) * t)
    if num_tasks > 1:
        clean[:, 0] += np.maximum(0.0, 0.02 * (t[:, 0] - num_records // 3))
    return clean * scales(rng, num_tasks) * np.exp(rng.normal(0, 0.05, clean.shape))


def norms(rng, num_tasks):
    drift = np.exp(rng.normal(0, 0.05, (RECORDS, num_tasks)).cumsum(0) + rng.normal(0, 0.3, (RECORDS, num_tasks)))
    return drift * scales(rng, num_tasks)


def damage(rng, *signals):
    """Break signals in place: zeros, then NaN and infinities, then gaps; return the mask of what is present.

    An entry is broken in all signals: what a lone missing signal does is a test of its own. Zeros come late, since a
    baseline cannot be zero.
    """
    shape = signals[0].shape[:2]
    present = rng.random(shape) >= 0.3
    present[: RECORDS // 4, -1] &= shape[1] == 1  # a task that starts late
    bad = rng.random(shape) < 0.02
    for signal in signals:
        late = np.arange(RECORDS)[:, None] > 3 * RECORDS // 4
        signal[late & (rng.random(shape) < 0.03)] = 0.0
        signal[bad] = rng.choice([np.nan, np.inf, -np.inf], bad.sum()).reshape(-1, *[1] * (signal.ndim - 2))
        hidden = rng.choice([0.0, -1.0, 7.0, np.nan], (~present).sum())
        signal[~present] = hidden.reshape(-1, *[1] * (signal.ndim - 2))
    return present


def given_baseline(rng, kind, num_tasks):
    if kind == "none":
        return None
    initial = scales(rng, num_tasks)
    if kind == "partly":
        initial[::2] = np.nan
    return initial


def test_the_reference_adam_is_torch_adam():
    gradients = np.random.default_rng(0).normal(size=(60, 3)) * [1e-6, 1.0, 1e4]
    for setting in ({"lr": 0.025}, {"lr": 0.3, "betas": (0.7, 0.9), "eps": 1e-3}):
        ours = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        optimizer = torch.optim.Adam([ours], **setting)
        wanted = np.zeros(3)
        for t in range(len(gradients)):
            ours.grad = torch.tensor(gradients[t])
            optimizer.step()
            wanted += [reference.adam_change(gradients[: t + 1, k], **setting) for k in range(3)]
        np.testing.assert_allclose(ours.detach(), wanted, rtol=1e-12, atol=1e-14)


@WHOLE_OR_BROKEN
@pytest.mark.parametrize("num_tasks", NUM_TASKS)
@pytest.mark.parametrize(
    ("setting", "given", "source"),
    [
        ({}, "none", "train"),
        ({"alpha": 1.3}, "partly", "held_out"),
        ({"alpha": 0.0}, "none", "train"),
        ({"initial_records": 7}, "none", "held_out"),
        ({"initial_records": 5, "alpha": 2.0}, "partly", "train"),
        ({"reset_each_epoch": True}, "none", "train"),
        ({"reset_each_epoch": True, "initial_records": 4}, "none", "held_out"),
        ({"reset_each_epoch": True}, "partly", "held_out"),
    ],
)
def test_lbtw(num_tasks, broken, setting, given, source):
    rng = np.random.default_rng(num_tasks)
    losses = falling_curves(rng, num_tasks)
    present = damage(rng, losses) if broken else None
    initial = given_baseline(rng, given, num_tasks)
    epochs = [record // 40 for record in range(RECORDS)]
    signal = "train_losses" if source == "train" else "losses"
    ours = replay(LBTW(source=source, **setting), initial=initial, present=present, epochs=epochs, **{signal: losses})
    agree(ours, reference.lbtw(losses, initial=initial, present=present, epochs=epochs, **setting))


@WHOLE_OR_BROKEN
@pytest.mark.parametrize("num_tasks", NUM_TASKS)
@pytest.mark.parametrize(
    ("setting", "given", "source"),
    [
        ({}, "none", "train"),
        ({"alpha": 0.12}, "none", "held_out"),
        ({"alpha": 3.0, "lr": 0.2}, "given", "train"),  # hits the floor
        ({"initial_records": 7}, "none", "train"),
        ({"initial_records": 4, "alpha": 0.0}, "partly", "held_out"),
    ],
)
def test_gradnorm(num_tasks, broken, setting, given, source):
    rng = np.random.default_rng(10 + num_tasks)
    losses, grad_norms = falling_curves(rng, num_tasks), norms(rng, num_tasks)
    present = damage(rng, losses, grad_norms) if broken else None
    initial = given_baseline(rng, given, num_tasks)
    signals = {"train_losses" if source == "train" else "losses": losses, "grad_norms": grad_norms}
    ours = replay(GradNorm(source=source, **setting), initial=initial, present=present, **signals)
    agree(ours, reference.gradnorm(losses, grad_norms, initial=initial, present=present, **setting))


@WHOLE_OR_BROKEN
@pytest.mark.parametrize("num_tasks", NUM_TASKS)
@pytest.mark.parametrize("setting", [{}, {"lr": 0.2, "gamma": 0.0}, {"lr": 0.01, "gamma": 0.3}, {"min_losses": 1e-5}])
@pytest.mark.parametrize("source", ["train", "held_out"])
def test_famo(num_tasks, broken, setting, source):
    rng = np.random.default_rng(20 + num_tasks)
    train = falling_curves(rng, num_tasks)
    if source == "train":
        signals = {"losses_after_step": train * np.exp(rng.normal(-0.01, 0.05, train.shape))}
    else:
        signals = {"losses": falling_curves(rng, num_tasks)}
    present = damage(rng, train, *signals.values()) if broken else None
    ours = replay(FAMO(source=source, **setting), train_losses=train, present=present, **signals)
    agree(ours, reference.famo(train, present=present, **signals, **setting))


def drop_entries(rng, signals):
    """Make every signal unknown at random on its own."""
    return {name: np.where(rng.random(signal.shape) < 0.2, np.nan, signal) for name, signal in signals.items()}


@pytest.mark.parametrize("num_tasks", NUM_TASKS)
def test_gradnorm_leaves_out_a_task_that_lacks_one_signal(num_tasks):
    rng = np.random.default_rng(50 + num_tasks)
    signals = drop_entries(rng, {"train_losses": falling_curves(rng, num_tasks), "grad_norms": norms(rng, num_tasks)})
    agree(replay(GradNorm(), **signals), reference.gradnorm(*signals.values()))


@pytest.mark.parametrize("num_tasks", NUM_TASKS)
@pytest.mark.parametrize(("source", "other"), [("train", "losses_after_step"), ("held_out", "losses")])
def test_famo_takes_what_it_has_of_a_task_that_lacks_one_signal(num_tasks, source, other):
    rng = np.random.default_rng(60 + num_tasks)
    train = falling_curves(rng, num_tasks)
    signals = drop_entries(rng, {"train_losses": train, other: train * np.exp(rng.normal(-0.01, 0.05, train.shape))})
    agree(replay(FAMO(source=source), **signals), reference.famo(**signals))


def test_famo_with_a_bound_for_each_task():
    rng = np.random.default_rng(30)
    train = falling_curves(rng, 3)
    after = train * np.exp(rng.normal(-0.01, 0.02, train.shape))
    # Below the lowest loss, above half of them (which then count as absent), and negative.
    bounds = [0.5 * train[:, 0].min(), float(np.median(train[:, 1])), -1.0]
    ours = replay(FAMO(min_losses=bounds), train_losses=train, losses_after_step=after)
    agree(ours, reference.famo(train, after, min_losses=bounds))


@WHOLE_OR_BROKEN
@pytest.mark.parametrize("num_tasks", NUM_TASKS)
@pytest.mark.parametrize("setting", [{"lr": 0.1}, {"lr": 1e-3, "look_ahead_lr": 0.5}, {"lr": 3.0}])
def test_metaweighting(num_tasks, broken, setting):
    rng = np.random.default_rng(40 + num_tasks)
    shape = (RECORDS if num_tasks < 12 else 40, num_tasks, num_tasks)
    # The mean keeps the origin out of the hull; what is left of it changes from record to record.
    hypergradients = rng.normal(size=shape) * 10.0 ** rng.uniform(-1, 1, (num_tasks, 1)) + rng.normal(
        0, 0.5, (shape[0], 1, num_tasks)
    )
    present = None
    if broken:
        present = rng.random(shape[:2]) >= 0.3
        hypergradients[rng.random(shape) < 0.01 / num_tasks] = np.nan
        hypergradients[rng.random(shape[:2]) < 0.02] = 0.0
        hypergradients[~present] = np.nan
    ours = replay(MetaWeighting(**setting), hypergradients=hypergradients, present=present)
    agree(ours, reference.metaweighting(hypergradients, setting["lr"], present))


class TestByHand:
    """Rows that a pencil gives."""

    def rows(self, balancer, wanted, absolute=1e-12, **signals):
        np.testing.assert_allclose(replay(balancer, **signals), wanted, rtol=0, atol=absolute)

    def test_lbtw(self):
        # L(0) = 4, 1. Ratios 1, 1; 1/4, 1; 1, 1/4. Their roots 1, 1; 1/2, 1; 1, 1/2.
        losses = [[4, 1], [1, 1], [4, 0.25]]
        self.rows(LBTW(), [[1 / 2, 1 / 2], [1 / 3, 2 / 3], [2 / 3, 1 / 3]], train_losses=losses)
        self.rows(LBTW(source="held_out"), [[1 / 2, 1 / 2], [1 / 3, 2 / 3], [2 / 3, 1 / 3]], losses=losses)
        # L(0) again at record 2: 1, 1. Ratios 1, 1; 4, 1/4. Roots 1, 1; 2, 1/2.
        rows = [[1 / 2, 1 / 2], [1 / 2, 1 / 2], [4 / 5, 1 / 5]]
        self.rows(LBTW(reset_each_epoch=True), rows, train_losses=losses, epochs=[0, 1, 1])

    def test_lbtw_with_a_running_baseline(self):
        # L(0) = 4, 1; (4 + 2) / 2 = 3, 1; then frozen. Ratios 1, 1; 2/3, 1; 1, 1/2.
        losses = [[4, 1], [2, 1], [3, 0.5]]
        rows = [[1 / 2, 1 / 2], [2 / 5, 3 / 5], [2 / 3, 1 / 3]]
        self.rows(LBTW(alpha=1.0, initial_records=2), rows, train_losses=losses)

    def test_lbtw_with_an_absent_task(self):
        # The first task keeps its ratio 1/4 (root 1/2) through record 3; the second is at 1/4 then.
        losses = [[4, 1], [1, 1], [9, 0.25]]
        present = [[True, True], [True, True], [False, True]]
        rows = [[1 / 2, 1 / 2], [1 / 3, 2 / 3], [1 / 2, 1 / 2]]
        self.rows(LBTW(), rows, train_losses=losses, present=present)

    def test_gradnorm(self):
        # Adam walks lr a record while the gradients stay -1 and 3 (but for eps = 1e-8). Record 1: w g = 1, 3 against
        # 2, 2. Record 2: L / L(0) = 1/2, 1, rho = 2/3, 4/3; w g = 1.1, 2.7 against 1.9 rho = 1.27, 2.53. Record 3:
        # rho = 1.6, 0.4; w g = 1.2, 2.4 against 1.8 rho = 2.88, 0.72.
        losses, grad_norms = [[2, 2], [1, 2], [2, 0.5]], [[1, 3], [1, 3], [1, 3]]
        rows = [[0.55, 0.45], [0.6, 0.4], [0.65, 0.35]]
        self.rows(GradNorm(alpha=1.0, lr=0.1), rows, 1e-8, train_losses=losses, grad_norms=grad_norms)
        starred = GradNorm(alpha=1.0, lr=0.1, source="held_out")
        self.rows(starred, rows, 1e-8, losses=losses, grad_norms=grad_norms)

    def test_losses_that_are_all_zero_are_equal(self):
        # 0 / 0: LBTW is uniform. GradNorm's rho is 1, so that w g = 1.1, 2.7 stands against 1.9 at record 2.
        losses = [[2, 2], [0, 0]]
        self.rows(LBTW(), [[0.5, 0.5], [0.5, 0.5]], train_losses=losses)
        rows = [[0.55, 0.45], [0.6, 0.4]]
        self.rows(GradNorm(lr=0.1), rows, 1e-8, train_losses=losses, grad_norms=[[1, 3], [1, 3]])

    def test_gradnorm_rescales(self):
        # rho^2 = 1/4, 9/4; w g = 0.1, 1 against 0.55 rho^2 = 0.14, 1.24: both rise to 1.1, and are rescaled to 1.
        signals = {"train_losses": [[0.5, 1.5]], "grad_norms": [[0.1, 1.0]], "initial": [1.0, 1.0]}
        self.rows(GradNorm(alpha=2.0, lr=0.1), [[0.5, 0.5]], 1e-8, **signals)

    def test_famo(self):
        # z = 1/2, 1/2 and delta = log 2, 0: d = log(2) / 4 (1, -1), xi = (-0.1, 0.1). Then z_1 z_2 = 1 / (4 cosh^2 xi),
        # so delta_1 = log(2) cosh^2 xi gives the same d, and Adam the same step. Task 2 is absent at record 3.
        first, second = math.cosh(0.1) ** 2, math.cosh(0.2) ** 2
        train, after = [[1, 1], [2, 1], [4, 9]], [[0.5, 1], [2 * 2**-first, 1], [4 * 2**-second, 3]]
        present = [[True, True], [True, True], [True, False]]
        shares = np.array([[math.exp(-0.1), math.exp(0.1)], [math.exp(-0.2) / 2, math.exp(0.2)]])
        shares = np.vstack([shares, [math.exp(-0.3) / 4, math.exp(0.3)]])
        rows = shares / shares.sum(1, keepdims=True)
        famo = FAMO(lr=0.1, gamma=0.0)
        self.rows(famo, rows, 1e-7, train_losses=train, losses_after_step=after, present=present)

    def test_famo_on_held_out_losses(self):
        # The first record has none before it: delta = 0, and w is 1 / D alone. At the second delta = log 2, 0.
        starred = FAMO(lr=0.1, gamma=0.0, source="held_out")
        share = np.array([math.exp(-0.1) / 4, math.exp(0.1)])
        rows = [[1 / 3, 2 / 3], share / share.sum()]
        # Adam has made a step of gradient 0 before: m = g / 1.9 and v = g^2 / 1.999, so it walks sqrt(1.999) / 1.9 lr.
        step = 0.1 * math.sqrt(1.999) / 1.9
        share = np.array([math.exp(-step) / 4, math.exp(step)])
        rows[1] = share / share.sum()
        self.rows(starred, rows, 1e-7, train_losses=[[2, 1], [4, 1]], losses=[[6, 5], [3, 5]])

    def test_metaweighting(self):
        # d* = (1/2, 1/2): both fall alike. d* = (1, -1), an end of the segment: w = 0.4, 0.6. d* = (8, 0): the first
        # would fall below 0.
        hypergradients = [[[1, 0], [0, 1]], [[1, -1], [3, -1]], [[8, 0], [8, 2]]]
        rows = [[0.5, 0.5], [0.4, 0.6], [0.0, 1.0]]
        self.rows(MetaWeighting(lr=0.1), rows, hypergradients=hypergradients)


def constant(row, num_records=20):
    return np.tile(np.asarray(row, float), (num_records, 1))


class TestProperties:
    """What each method is for."""

    @pytest.mark.parametrize("better", [0, 1, 2])
    def test_famo_lowers_the_task_that_improved_most(self, better):
        ones = constant([1, 1, 1])
        after = 0.98 * ones
        after[:, better] = 0.9
        for signals in (
            {"train_losses": ones, "losses_after_step": after},
            {"train_losses": ones, "losses": after.cumprod(0)},
        ):
            source = "held_out" if "losses" in signals else "train"
            weights = replay(FAMO(source=source), **signals)
            fell = weights[1:, better] < weights[:-1, better]
            assert bool(fell.all())
            assert int(weights[-1].argmin()) == better

    def test_famo_weighs_a_small_loss_more(self):
        losses = constant([1.0, 0.25])
        weights = replay(FAMO(), train_losses=losses, losses_after_step=losses)
        np.testing.assert_allclose(weights, constant([0.2, 0.8]), atol=1e-7)

    @pytest.mark.parametrize("setting", [{}, {"initial_records": 5}, {"alpha": 2.0}])
    def test_lbtw_does_not_see_the_scale_of_a_loss(self, setting):
        losses = falling_curves(np.random.default_rng(0), 4)
        scaled = replay(LBTW(**setting), train_losses=losses * [1e-3, 1, 7, 1e5])
        np.testing.assert_allclose(scaled, replay(LBTW(**setting), train_losses=losses), rtol=0, atol=1e-14)

    def test_lbtw_without_alpha_is_uniform(self):
        weights = replay(LBTW(alpha=0.0), train_losses=falling_curves(np.random.default_rng(1), 4))
        np.testing.assert_allclose(weights, np.full(weights.shape, 0.25), rtol=0, atol=1e-15)

    @pytest.mark.parametrize("slow", [0, 1])
    def test_lbtw_gives_more_to_the_slower_task(self, slow):
        t = np.arange(1, 50.0)
        losses = np.exp(-np.outer(t, [0.01, 0.1][:: 1 - 2 * slow]))
        weights = replay(LBTW(), train_losses=losses)
        assert bool((weights[1:, slow] > 0.5).all())
        assert bool((weights[1:, slow] > weights[:-1, slow]).all())

    def test_gradnorm_of_equals_is_uniform(self):
        weights = replay(GradNorm(), train_losses=constant([2, 2, 2]), grad_norms=constant([5, 5, 5]))
        np.testing.assert_allclose(weights, np.full(weights.shape, 1 / 3), rtol=0, atol=1e-15)

    @pytest.mark.parametrize("small", [0, 1])
    def test_gradnorm_gives_more_to_the_smaller_gradient(self, small):
        grad_norms = constant([1, 4][:: 1 - 2 * small])
        weights = replay(GradNorm(), train_losses=constant([3, 3]), grad_norms=grad_norms)
        assert float(weights[0, small]) > 0.5
        assert bool((weights[1:, small] > weights[:-1, small]).all())

    def test_gradnorm_gives_more_to_the_slower_task(self):
        losses, grad_norms = constant([0.5, 0.9], 3), constant([2, 2], 3)
        weights = replay(GradNorm(), train_losses=losses, grad_norms=grad_norms, initial=[1.0, 1.0])
        assert bool((weights[:, 1] > 0.5).all())

    @pytest.mark.parametrize("scale", [1e-3, 1e3])
    def test_gradnorm_hardly_sees_a_common_scale_of_the_norms(self, scale):
        rng = np.random.default_rng(2)
        losses, grad_norms = falling_curves(rng, 3), rng.uniform(0.5, 2, (RECORDS, 3))
        plain = replay(GradNorm(), train_losses=losses, grad_norms=grad_norms)
        scaled = replay(GradNorm(), train_losses=losses, grad_norms=scale * grad_norms)
        np.testing.assert_allclose(scaled, plain, rtol=0, atol=1e-4)  # Adam's eps is what is left
        assert float((plain - 1 / 3).abs().max()) > 0.1

    @pytest.mark.parametrize("seed", range(5))
    def test_every_row_is_on_the_simplex(self, seed):
        rng = np.random.default_rng(seed)
        losses, grad_norms = falling_curves(rng, 6), norms(rng, 6)
        present = damage(rng, losses, grad_norms)
        for weights in (
            replay(GradNorm(lr=0.3), train_losses=losses, grad_norms=grad_norms, present=present),
            replay(LBTW(), train_losses=losses, present=present),
            replay(FAMO(lr=0.3), train_losses=losses, losses_after_step=0.9 * losses, present=present),
            replay(MetaWeighting(lr=0.3), hypergradients=rng.normal(size=(RECORDS, 6, 6)), present=present),
        ):
            np.testing.assert_allclose(weights.sum(1), 1.0, rtol=0, atol=1e-14)
            assert float(weights.min()) >= 0

    @pytest.mark.parametrize("helpful", [0, 1, 2])
    def test_metaweighting_raises_the_task_that_helps_all(self, helpful):
        hypergradients = np.random.default_rng(3).normal(0, 1e-3, (30, 3, 3))
        hypergradients[:, :, helpful] -= 0.01
        weights = replay(MetaWeighting(), hypergradients=hypergradients)[:, helpful]
        assert float(weights[0]) > 1 / 3
        assert bool((weights[1:] >= weights[:-1]).all())
        assert float(weights[-1]) > 0.4

    def test_metaweighting_stays_where_nothing_matters(self):
        hypergradients = np.random.default_rng(4).normal(size=(10, 3, 3)) * 0.1 + [-1, 0, 1]
        hypergradients[1:] = 0.0
        weights = replay(MetaWeighting(lr=0.1), hypergradients=hypergradients)
        assert float((weights[0] - 1 / 3).abs().max()) > 0.01
        np.testing.assert_allclose(weights[1:], weights[:-1], rtol=0, atol=1e-15)

    def test_a_record_without_any_task_changes_nothing(self):
        rng = np.random.default_rng(5)
        losses, grad_norms = falling_curves(rng, 3), norms(rng, 3)
        hypergradients = rng.normal(size=(RECORDS, 3, 3)) * 0.01 + [-0.1, 0, 0.1]
        losses[100:], hypergradients[100:] = np.nan, np.nan
        for weights in (
            replay(GradNorm(alpha=3.0, lr=0.2), train_losses=losses, grad_norms=grad_norms),
            replay(LBTW(), train_losses=losses),
            replay(FAMO(), train_losses=losses, losses_after_step=0.9 * losses),
            replay(MetaWeighting(), hypergradients=hypergradients),
        ):
            np.testing.assert_allclose(weights[100:], weights[99].expand(RECORDS - 100, 3), rtol=0, atol=1e-14)
            assert float((weights[99] - 1 / 3).abs().max()) > 1e-3
