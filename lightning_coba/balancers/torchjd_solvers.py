"""Methods on the tasks' gradients that solve a convex problem in each step."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import Observation
from lightning_coba.balancers.checks import check_count, check_number
from lightning_coba.balancers.torchjd_adapter import (
    GradientBalancer,
    TorchJDBalancer,
    signed_shares,
    uniform,
    usable_gradients,
)

#: Nash-MTL's equation counts as solved where every task's product is as close to 1.
BARGAIN_TOLERANCE = 1e-2


@contextmanager
def _quiet_solver() -> Iterator[None]:
    """Keep cvxpy's remarks on speed and accuracy, one a solve, from the user: an answer that fails is counted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@dataclass(frozen=True)
class CAGrad(GradientBalancer):
    r"""Near the mean gradient, step where the task that gains least gains most: conflict-averse gradient descent.

    Use it to help the worst task in every step while the mean loss still converges; c = 0 is uniform weights. A record
    costs K backward passes and a small cone program on the CPU (some milliseconds, and a second once, for the import
    of cvxpy): it waits for the device.

    .. math::
        d = g_0 + \frac{c\,\|g_0\|}{\|g_\omega\|}\, g_\omega, \qquad
        \omega = \arg\min_{\omega \,\in\, \text{simplex}} g_\omega^T g_0 + c\,\|g_0\| \|g_\omega\|

    :math:`g_0` is the mean of the gradients of the tasks' training losses, :math:`g_\omega = \sum_i \omega_i g_i`, c
    the radius around :math:`g_0` within which d is sought. So :math:`w_i \propto 1/K + c\,\omega_i
    \|g_0\|/\|g_\omega\|`: never negative.

    Args:
        c: >= 0, below 1 for convergence of the mean (0.4: the paper's choice on NYU-v2; LibMTL has 0.5).

    Raises:
        ValueError: if ``c`` is not a finite number >= 0.

    Example:
        >>> from lightning_coba import replay
        >>> weights = replay(CAGrad(), gramian=[[[1.0, -1.0], [-1.0, 4.0]]])[-1]
        >>> bool(weights[0] > weights[1])  # the mean gradient does nothing for the first task
        True

    References:
        Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, Algorithm 1; rule:
        torchjd 0.18, ``CAGrad`` (solver: Clarabel through cvxpy).

    **Differs from** the paper and torchjd:
        * weights sum to 1; in the paper they sum to 1 + c :math:`\|g_0\|/\|g_\omega\|`, and the authors' code divides
          by 1 + c^2. ``scale`` of the state is the sum.
        * where :math:`g_\omega` is 0 (a Pareto-stationary point) or the solver fails, weights are uniform, which is the
          step along :math:`g_0`; torchjd takes no step.
        * a task without a gradient (absent, zero, NaN) is left out and gets 1/K.
    """

    c: float = 0.4

    solvers: ClassVar[tuple[str, ...]] = ("cvxpy", "clarabel")

    def __post_init__(self) -> None:
        """Check the domain."""
        check_number("CAGrad.c", self.c, at_least=0)

    def _solve(self, gramian: Tensor, record: int) -> Tensor:
        from cvxpy.error import SolverError
        from torchjd.aggregation import CAGradWeighting

        try:
            with _quiet_solver():
                return CAGradWeighting(c=self.c)(gramian)
        except (SolverError, TypeError):  # the latter where the solver gave None
            return torch.zeros_like(gramian.diagonal())


@dataclass(frozen=True)
class UPGrad(GradientBalancer):
    r"""Project each task's gradient to where it conflicts with no task, and take the mean.

    Use it as the conflict-free method with the fewest surprises: no task's loss rises (to first order), and larger
    gradients count for more, as in the plain mean. Without conflicts the weights are uniform. A record costs K backward
    passes and K small quadratic programs on the CPU (well under a millisecond each): it waits for the device.

    .. math::
        w = \sum_i v_i, \qquad v_i = \arg\min_{v \,\ge\, e_i/K} v^T G\, v, \qquad G_{ij} = g_i^T g_j

    :math:`g_i` is the gradient of task i's training loss, :math:`e_i` the i-th unit vector: :math:`v_i` are the weights
    of :math:`g_i/K` projected onto the cone of directions that have no negative product with any gradient. The weights
    are never negative.

    Args:
        regularization: added to the diagonal of G, as a share of its trace (torchjd: 1e-4). It keeps the quadratic
            programs solvable where gradients are nearly dependent.

    Raises:
        ValueError: if ``regularization`` is not a finite number > 0.

    Example:
        >>> from lightning_coba import replay
        >>> replay(UPGrad(), gramian=[[[1.0, 0.5], [0.5, 4.0]]])[-1]  # no conflict
        tensor([0.5000, 0.5000], dtype=torch.float64)

    References:
        Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232, 2024; rule: torchjd
        0.18, ``UPGrad`` (solver: quadprog through qpsolvers).

    **Differs from** the paper and torchjd:
        * weights sum to 1; theirs is at least 1. ``scale`` of the state is the sum.
        * no preference vector: the callback's ``prior`` says which task matters more.
        * a task without a gradient (absent, zero, NaN) is left out and gets 1/K. Where the solver fails, weights are
          uniform.
    """

    regularization: float = 1e-4

    solvers: ClassVar[tuple[str, ...]] = ("qpsolvers", "quadprog")

    def __post_init__(self) -> None:
        """Check the domain."""
        check_number("UPGrad.regularization", self.regularization, above=0)

    def _solve(self, gramian: Tensor, record: int) -> Tensor:
        from qpsolvers.exceptions import QPError
        from torchjd.aggregation import UPGradWeighting
        from torchjd.linalg import QuadprogProjector

        try:
            return UPGradWeighting(projector=QuadprogProjector(reg_eps=self.regularization))(gramian)
        except (QPError, ValueError):
            return torch.zeros_like(gramian.diagonal())


class NashMTLState(NamedTuple):
    """What Nash-MTL knows after ``record`` records; float64 tensors on one device."""

    record: int
    alpha: Tensor  # [K] last solution for gradients scaled to norm 1: where the next search starts
    num_unsolved: int  # searches that ended without a solution
    weights: Tensor  # [K] in force
    scale: Tensor  # scalar, sum of the weights before division, for gradients of mean squared norm 1


@dataclass(frozen=True)
class NashMTL(TorchJDBalancer):
    r"""Let the tasks bargain: the step at which the product of what they gain is largest.

    Use it when gradients differ much in size: the result does not depend on the scale of any task's loss. A record
    costs K backward passes and up to ``num_iterations`` cone programs on the CPU (a tenth of a second for five tasks,
    and a second once, for the import of cvxpy): it waits for the device. With ``every_n_records`` it pays less often.

    .. math::
        G\,\alpha = 1/\alpha, \qquad G_{ij} = g_i^T g_j, \qquad w = \alpha / \textstyle\sum_j \alpha_j

    :math:`g_i` is the gradient of task i's training loss, the reciprocal is by entry and :math:`\alpha > 0`; a sequence
    of convex problems from the solution of the record before.

    Args:
        num_iterations: convex problems a search, at most (paper, torchjd: 20).
        every_n_records: records between searches (torchjd: 1; the paper pays less often to save time). In between,
            :math:`\alpha` stays and the gradients' norms are those of the record.

    Raises:
        ValueError: if an argument is outside its domain.

    Example:
        >>> from lightning_coba import replay
        >>> replay(NashMTL(), gramian=[[[1.0, 0.0], [0.0, 4.0]]])[-1]
        tensor([0.6667, 0.3333], dtype=torch.float64)

    References:
        Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, Algorithm 1; rule: torchjd 0.18,
        ``NashMTL``, from the authors' code (solver: ECOS through cvxpy).

    **Differs from** the paper and torchjd:
        * the search is on gradients scaled to norm 1 and :math:`\alpha` is divided by the norms after, which is the
          same solution: the equation scales with each gradient. The search starts at :math:`\alpha_i = 1/\|g_i\|`,
          exact for orthogonal gradients; from torchjd's 1 it may find nothing where gradients are large or small.
        * no clipping of the step's norm (``max_norm``): the weights are normalised, so it would do nothing.
        * where the solver fails, torchjd keeps the :math:`\alpha` it came to, at worst the one of the record before,
          and says nothing; so here, but ``num_unsolved`` of the state counts the searches after which
          :math:`\alpha_i (G\alpha)_i` is not 1 to a hundredth.
        * :math:`\alpha` is in the checkpoint; torchjd's ``state_dict`` is empty. Its two other counters say nothing
          that the record number and the record's own Gramian do not.
        * a task without a gradient (absent, zero, NaN) is left out, keeps its :math:`\alpha` and gets 1/K.
    """

    num_iterations: int = 20
    every_n_records: int = 1

    solvers: ClassVar[tuple[str, ...]] = ("cvxpy", "ecos")
    acts_on: ClassVar[Literal["next step", "this step"]] = "this step"

    def __post_init__(self) -> None:
        """Check the domains."""
        check_count("NashMTL.num_iterations", self.num_iterations)
        check_count("NashMTL.every_n_records", self.every_n_records)

    @property
    def needs(self) -> frozenset[str]:
        """The Gramian of the tasks' gradients."""
        return frozenset({"gramian"})

    def _first_state(self, num_tasks: int, device: torch.device) -> NashMTLState:
        weights = uniform(num_tasks, device)
        return NashMTLState(0, torch.ones_like(weights), 0, weights, torch.zeros_like(weights[0]))

    def update(self, state: NashMTLState, observation: Observation) -> tuple[NashMTLState, Tensor]:
        """Take one record; waits for the device. See :meth:`Balancer.update`."""
        gramian, usable = usable_gradients(observation)
        norms = gramian.diagonal().sqrt()
        alpha, num_unsolved = state.alpha.cpu().clone(), state.num_unsolved
        if len(gramian) > 1 and state.record % self.every_n_records == 0:
            cosines = gramian / norms / norms[:, None]
            found = self._bargain(cosines, alpha[usable])
            num_unsolved += not (found * (cosines @ found) - 1).abs().max() < BARGAIN_TOLERANCE
            if (found > 0).all() and found.isfinite().all():
                alpha[usable] = found
        weights, scale = signed_shares(alpha[usable] / norms, usable)
        state = NashMTLState(
            record=state.record + 1,
            alpha=alpha.to(state.alpha),
            num_unsolved=num_unsolved,
            weights=weights.to(state.weights),
            scale=scale.to(state.scale),
        )
        return state, state.weights

    def _bargain(self, cosines: Tensor, alpha: Tensor) -> Tensor:
        from torchjd import aggregation

        eigenvalues, vectors = torch.linalg.eigh(cosines)
        root = vectors * eigenvalues.clamp(min=0).sqrt()  # the rule takes a matrix with this Gramian
        weighting = aggregation.NashMTL(len(alpha), max_norm=0.0, optim_niter=self.num_iterations).weighting
        weighting.prvs_alpha = alpha.numpy()
        with _quiet_solver():
            return weighting(root)
