"""The methods on gradients: against torchjd on the same Gramian, closed forms, and what their equations promise."""

import math

import pytest
import torch
from random_records import gramians
from torchjd import aggregation

from lightning_coba.balancers import IMTLG, MGDA, AlignedMTL, CAGrad, NashMTL, Observation, PCGrad, UPGrad, replay

NAN = math.nan
EVERYONE = [MGDA(), PCGrad(), IMTLG(), AlignedMTL(), CAGrad(), UPGrad(), NashMTL()]
everyone = pytest.mark.parametrize("balancer", EVERYONE, ids=lambda balancer: balancer.label)
OPPOSITE = [[1.0, -1.0], [-1.0, 1.0]]


def normalised(weights):
    return weights / weights.abs().sum()


@pytest.mark.parametrize(
    ("balancer", "weighting"),
    [
        (MGDA(), aggregation.MGDAWeighting()),
        (MGDA(num_iterations=3, tolerance=0.1), aggregation.MGDAWeighting(0.1, 3)),
        (IMTLG(), aggregation.IMTLGWeighting()),
        (AlignedMTL(), aggregation.AlignedMTLWeighting()),
        (AlignedMTL("median"), aggregation.AlignedMTLWeighting(scale_mode="median")),
        (AlignedMTL("rmse"), aggregation.AlignedMTLWeighting(scale_mode="rmse")),
        (CAGrad(), aggregation.CAGradWeighting(c=0.4)),
        (CAGrad(c=0.9), aggregation.CAGradWeighting(c=0.9)),
        (UPGrad(), aggregation.UPGradWeighting()),
    ],
    ids=repr,
)
def test_weights_are_those_of_torchjd(balancer, weighting):
    matrices = gramians(12, 5)
    expected = torch.stack([normalised(weighting(matrix)) for matrix in matrices])
    assert (replay(balancer, gramian=matrices) - expected).abs().max() < 1e-9
    assert (expected.std(dim=1) > 1e-3).all()  # uniform weights would prove nothing


@pytest.mark.parametrize("matrix", [[[1.0, 0.3], [0.3, 4.0]], [[1.0, -1.5], [-1.5, 4.0]], [[1.0, 1.5], [1.5, 4.0]]])
def test_two_tasks_have_closed_forms(matrix):
    (a, b), (_, c) = matrix
    one = min(max((c - b) / (a + c - 2 * b), 0.0), 1.0)
    assert torch.allclose(replay(MGDA(), gramian=[matrix])[-1], torch.tensor([one, 1 - one]).double(), atol=1e-7)
    norms = a**0.5, c**0.5
    assert torch.allclose(
        replay(IMTLG(), gramian=[matrix])[-1], torch.tensor([norms[1], norms[0]]).double() / sum(norms), atol=1e-7
    )
    # G alpha = 1 / alpha has alpha_i = 1 / (norm_i sqrt(1 + cosine)).
    assert torch.allclose(
        replay(NashMTL(), gramian=[matrix])[-1], torch.tensor([norms[1], norms[0]]).double() / sum(norms), atol=1e-5
    )
    sums = torch.tensor([1 + max(-b, 0) / a, 1 + max(-b, 0) / c]).double()
    assert torch.allclose(replay(PCGrad(), gramian=[matrix])[-1], sums / sums.sum(), atol=1e-7)


def test_imtlg_projects_alike_on_every_gradient():
    matrices = gramians(8, 4)
    weights = replay(IMTLG(), gramian=matrices)
    projections = (matrices @ weights[:, :, None]).squeeze(-1) / matrices.diagonal(dim1=1, dim2=2).sqrt()
    assert (projections - projections[:, :1]).abs().max() < 1e-10
    assert (weights < 0).any()  # signs are kept


def test_upgrad_conflicts_with_no_gradient():
    matrices = gramians(20, 4, shared=0.0)
    gains = (matrices @ replay(UPGrad(regularization=1e-9), gramian=matrices)[:, :, None]).squeeze(-1)
    assert gains.min() > -1e-6
    assert (matrices.mean(dim=2) < -0.01).any()  # the mean does


@everyone
@pytest.mark.parametrize("factor", [1e-12, 1e9])
def test_the_scale_of_all_gradients_does_not_matter(balancer, factor):
    matrices = gramians(3, 3)
    small = replay(balancer, gramian=matrices * factor)
    assert (small - replay(balancer, gramian=matrices)).abs().max() < 1e-6


@everyone
def test_a_task_without_a_gradient_is_left_out(balancer):
    inner = gramians(1, 3)[0]
    whole = torch.full((5, 5), NAN, dtype=torch.float64)
    kept = torch.tensor([0, 2, 3])
    whole[kept[:, None], kept] = inner
    whole[1, :] = whole[:, 1] = 0.0  # no gradient; task 4 has a NaN one
    state, weights = balancer.update(
        balancer.init(5), Observation(step=1, present=torch.ones(5, dtype=torch.bool), gramian=whole)
    )
    alone, of_three = balancer.update(
        balancer.init(3), Observation(step=1, present=torch.ones(3, dtype=torch.bool), gramian=inner)
    )
    assert weights[1] == weights[4] == 0.2
    assert (weights[kept] - of_three * 0.6).abs().max() < 1e-12
    assert torch.equal(state.scale, alone.scale)


@everyone
def test_without_a_gradient_weights_are_uniform(balancer):
    present = torch.tensor([True, True, False])
    for matrix in (torch.zeros(3, 3), torch.full((3, 3), NAN), torch.eye(3) * torch.tensor([0.0, 1.0, 1.0])):
        _, weights = balancer.update(balancer.init(3), Observation(step=1, present=present, gramian=matrix))
        assert (weights - 1 / 3).abs().max() < 1e-15


@pytest.mark.parametrize("balancer", [IMTLG(), CAGrad()], ids=lambda balancer: balancer.label)
def test_gradients_that_cancel_out_are_weighted_alike(balancer):
    state, weights = balancer.update(
        balancer.init(2),
        Observation(step=1, present=torch.ones(2, dtype=torch.bool), gramian=torch.tensor(OPPOSITE)),
    )
    assert weights.tolist() == [0.5, 0.5]
    assert state.scale == 0


def test_a_solver_that_fails_leaves_uniform_weights(monkeypatch):
    import cvxpy
    from torchjd._linalg import _dual_cone

    def fail(*args, **kwargs):
        raise cvxpy.SolverError("Solver 'CLARABEL' failed.")

    matrices = gramians(1, 4)
    present = torch.ones(4, dtype=torch.bool)
    monkeypatch.setattr(cvxpy.Problem, "solve", fail)
    monkeypatch.setattr(_dual_cone, "solve_qp", lambda *args, **kwargs: None)
    for balancer in (CAGrad(), UPGrad()):
        state, weights = balancer.update(balancer.init(4), Observation(step=1, present=present, gramian=matrices[0]))
        assert weights.tolist() == [0.25] * 4
        assert state.scale == 0


def test_one_task_needs_no_solver(monkeypatch):
    for balancer in EVERYONE:
        if not isinstance(balancer, NashMTL):
            monkeypatch.setattr(type(balancer), "_solve", None)
        state, weights = balancer.update(
            balancer.init(1), Observation(step=1, present=torch.tensor([True]), gramian=torch.tensor([[3.0]]))
        )
        assert weights.tolist() == [1.0]
        assert state.scale == 1


@everyone
def test_it_says_how_its_weights_act(balancer):
    assert balancer.needs == {"gramian"}
    assert balancer.acts_on == "this step"
    assert balancer.signed == isinstance(balancer, IMTLG | AlignedMTL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: MGDA(num_iterations=0), "`MGDA.num_iterations` must be an integer >= 1; got 0."),
        (lambda: MGDA(tolerance=0), "`MGDA.tolerance` must be a finite number > 0; got 0."),
        (lambda: PCGrad(seed=True), "`PCGrad.seed` must be an integer >= 0; got True."),
        (
            lambda: AlignedMTL("max"),
            '`AlignedMTL.scale_mode` must be "min", "median" or "rmse"; got \'max\'.',
        ),
        (lambda: CAGrad(c=-0.1), "`CAGrad.c` must be a finite number >= 0; got -0.1."),
        (lambda: UPGrad(regularization=0), "`UPGrad.regularization` must be a finite number > 0; got 0."),
        (lambda: NashMTL(num_iterations=0), "`NashMTL.num_iterations` must be an integer >= 1; got 0."),
        (lambda: NashMTL(every_n_records=0), "`NashMTL.every_n_records` must be an integer >= 1; got 0."),
    ],
)
def test_hyper_parameters_are_checked(wrong, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        wrong()
    assert str(error.value) == message
