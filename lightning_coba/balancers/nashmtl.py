from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import Observation
from lightning_coba.balancers.checks import check_count
from lightning_coba.balancers.torchjd_adapter import (
    TorchJDBalancer,
    quiet_solver,
    signed_shares,
    uniform,
    usable_gradients,
)

#: Nash-MTL's equation counts as solved where every task's product is as close to 1.
BARGAIN_TOLERANCE = 1e-2


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
        num_iterations: convex problems per search, at most (paper, torchjd: 20).
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
        with quiet_solver():
            return weighting(root)
