import numpy as np
import pytest
import torch

from lightning_coba.functional import min_norm_point

F64 = torch.float64


def solve(gramian, active=None):
    """Return alpha as an array, after checking that it lies on the simplex of the active rows."""
    gramian = torch.as_tensor(np.asarray(gramian), dtype=F64)
    active = torch.ones(len(gramian), dtype=torch.bool) if active is None else torch.as_tensor(np.asarray(active))
    alpha = min_norm_point(gramian, active)
    assert alpha.dtype == F64
    assert alpha.shape == active.shape
    assert float(alpha.min()) >= 0
    assert float(alpha.sum()) == pytest.approx(1.0, abs=1e-14)
    assert bool((alpha[~active] == 0).all())
    return alpha.numpy()


def assert_optimal(points, alpha, active=None):
    """Check the optimality condition g_i . d >= |d|^2 of the nearest point d, for every active row g_i.

    A Gramian holds products only to a rounding error of the largest. Unless the nearest point is itself of that order
    (the hull holds the origin), it must be right in relative terms as well, however short it is.
    """
    active = np.ones(len(points), bool) if active is None else np.asarray(active)
    points, alpha = points[active], alpha[active]
    nearest = alpha @ points
    largest, value = (points**2).sum(1).max(), nearest @ nearest
    gap = value - (points @ nearest).min()
    assert gap <= 1e-13 * largest, gap / largest
    if value > 1e-12 * (points**2).sum(1).min():
        assert gap <= 1e-7 * value, gap / value


def random_points(num_tasks, kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "full rank":
        return rng.normal(size=(num_tasks, num_tasks + 20)) + 0.3
    if kind == "rank deficient":
        return rng.normal(size=(num_tasks, max(1, num_tasks // 3))) + 0.5
    if kind == "origin inside":
        return rng.normal(size=(num_tasks, max(1, num_tasks // 4)))
    if kind == "duplicates":
        points = rng.normal(size=(num_tasks, num_tasks + 5)) + 0.2
        points[1::2] = points[::2][: len(points[1::2])]
        return points
    return rng.normal(size=(num_tasks, num_tasks + 5)) * 10.0 ** rng.uniform(-3, 3, (num_tasks, 1))  # unequal lengths


KINDS = ["full rank", "rank deficient", "origin inside", "duplicates", "unequal lengths"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tasks", [2, 3, 4, 5, 8, 12, 20, 30])
def test_the_optimality_conditions_hold(num_tasks, kind):
    for seed in range(6):
        points = random_points(num_tasks, kind, seed)
        assert_optimal(points, solve(points @ points.T))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tasks", [3, 9, 20])
def test_the_optimality_conditions_hold_among_the_active_rows(num_tasks, kind):
    for seed in range(6):
        active = np.random.default_rng(seed).random(num_tasks) < 0.6
        active[seed % num_tasks] = True
        points = random_points(num_tasks, kind, seed)
        alpha = solve(points @ points.T, active)
        assert_optimal(points, alpha, active)
        alone = solve((points @ points.T)[np.ix_(active, active)])
        np.testing.assert_allclose(alpha[active] @ points[active], alone @ points[active], atol=1e-9, rtol=1e-7)


def test_the_conditions_refuse_another_point_of_the_simplex():
    points = random_points(5, "full rank", 0)
    alpha = solve(points @ points.T)
    for worse in (np.full(5, 0.2), np.eye(5)[0], (1 - 1e-6) * alpha + 1e-6 / 5):
        with pytest.raises(AssertionError):
            assert_optimal(points, worse)


@pytest.mark.parametrize("kind", KINDS)
def test_two_rows_have_a_closed_form(kind):
    for seed in range(20):
        points = random_points(2, kind, seed)
        g = points @ points.T
        alpha = solve(g)
        length = g[0, 0] + g[1, 1] - 2 * g[0, 1]
        if length > 1e-12 * g.max():  # else both are one point, and every alpha is right
            wanted = np.clip((g[1, 1] - g[0, 1]) / length, 0, 1)
            np.testing.assert_allclose(alpha, [wanted, 1 - wanted], rtol=0, atol=1e-12)


def test_two_rows_by_hand():
    # (1, 0), (0, 1): halfway. (2, 0), (0, 1): a = 1 / 5. (1, 0), (3, 1): the first is nearest.
    np.testing.assert_allclose(solve([[1, 0], [0, 1]]), [0.5, 0.5], atol=1e-15)
    np.testing.assert_allclose(solve([[4, 0], [0, 1]]), [0.2, 0.8], atol=1e-15)
    np.testing.assert_allclose(solve([[1, 3], [3, 10]]), [1.0, 0.0], atol=1e-15)
    # Opposite directions of lengths 1 and 3: the origin, three parts of the short one.
    np.testing.assert_allclose(solve([[1, -3], [-3, 9]]), [0.75, 0.25], atol=1e-12)


@pytest.mark.parametrize("num_tasks", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_no_point_of_a_fine_grid_is_nearer(num_tasks, kind):
    steps = 200
    grid = np.stack(np.meshgrid(*[np.arange(steps + 1)] * (num_tasks - 1), indexing="ij"), -1).reshape(
        -1, num_tasks - 1
    )
    grid = grid[grid.sum(1) <= steps]
    grid = np.hstack([grid, steps - grid.sum(1, keepdims=True)]) / steps
    for seed in range(6):
        points = random_points(num_tasks, kind, seed)
        gramian = points @ points.T
        values = ((grid @ gramian) * grid).sum(1)
        alpha = solve(gramian)
        value = alpha @ gramian @ alpha
        assert value <= values.min() + 1e-13 * gramian.max()
        # Some grid point is within num_tasks / steps of alpha in every entry, so the grid cannot be far above.
        assert values.min() - value <= (np.sqrt(num_tasks) * num_tasks / steps) ** 2 * np.trace(gramian) + (
            2 * num_tasks**2 / steps * np.sqrt(np.trace(gramian) * max(value, 0))
        )


@pytest.mark.parametrize("scale", [1e-12, 1e-5, 1e5, 1e12])
def test_a_common_scale_changes_nothing(scale):
    for num_tasks in (2, 3, 10):
        points = random_points(num_tasks, "full rank", num_tasks)
        gramian = points @ points.T
        np.testing.assert_allclose(solve(scale * gramian), solve(gramian), rtol=0, atol=1e-11)


def test_a_permutation_of_the_rows_permutes_the_weights():
    points = random_points(9, "full rank", 1)
    order = np.random.default_rng(2).permutation(9)
    gramian = points @ points.T
    np.testing.assert_allclose(solve(gramian[np.ix_(order, order)]), solve(gramian)[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_tasks", [1, 2, 5])
def test_one_active_row_has_all_the_weight(num_tasks):
    points = random_points(num_tasks, "full rank", 0)
    for k in range(num_tasks):
        active = np.arange(num_tasks) == k
        np.testing.assert_array_equal(solve(points @ points.T, active), active.astype(float))


@pytest.mark.parametrize("num_tasks", [1, 2, 6])
def test_a_zero_gramian_has_weights_on_the_active_rows(num_tasks):
    solve(np.zeros((num_tasks, num_tasks)))
    solve(np.zeros((num_tasks, num_tasks)), np.arange(num_tasks) % 2 == 0)


def test_a_zero_row_is_the_nearest_point():
    points = random_points(5, "full rank", 0)
    points[3] = 0.0
    alpha = solve(points @ points.T)
    assert float(np.linalg.norm(alpha @ points)) < 1e-7


def test_equal_rows_are_that_point():
    points = np.ones((4, 3))
    alpha = solve(points @ points.T)
    np.testing.assert_allclose(alpha @ points, [1, 1, 1], atol=1e-14)


def test_what_goes_in_is_left_as_it_was():
    points = random_points(4, "full rank", 0)
    gramian, active = torch.tensor(points @ points.T), torch.tensor([True, True, False, True])
    copies = gramian.clone(), active.clone()
    min_norm_point(gramian, active)
    assert torch.equal(gramian, copies[0])
    assert torch.equal(active, copies[1])
