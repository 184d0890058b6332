import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, Observation, Source, admitted, check_num_tasks, float64_device
from lightning_coba.balancers.checks import check_number, check_source, in_task_order, numbers
from lightning_coba.errors import UserError
from lightning_coba.functional import adam_step

#: Added to L - b, as in the authors' code, so that a loss of 0 has a logarithm.
EPSILON = 1e-8


class FAMOState(NamedTuple):
    """What FAMO knows after ``record`` records; float64 tensors on one device."""

    record: int
    logits: Tensor  # [K] xi
    exp_avg: Tensor  # [K] moments and step counts of Adam on xi
    exp_avg_sq: Tensor  # [K]
    num_steps: Tensor  # [K]
    distance: Tensor  # [K] last known D = L - b + 1e-8; NaN before a task was seen
    held_out: Tensor  # [K] last known held-out loss; NaN before a task was seen, and where they are not used
    weights: Tensor  # [K] in force


@dataclass(frozen=True)
class FAMO(Balancer):
    r"""Let every task's loss fall by the same share: Fast Adaptive Multitask Optimization.

    Use it as the cheap rival of methods on gradients: it sees only what a step did to the losses. It needs the losses
    of the step's rows before and after the update, so one more forward pass per record; the update itself is a handful
    of operations on K numbers.

    .. math::
        w_i = \frac{z_i / D_i}{\sum_j z_j / D_j}, \qquad z = \mathrm{softmax}(\xi), \qquad D_i = L_i - b_i + 10^{-8}

    .. math::
        \delta_i = \log D_i(\text{before}) - \log D_i(\text{after}), \qquad
        \xi \leftarrow \mathrm{Adam}\big(\xi,\; z \odot (\delta - z^T\delta) + \gamma\,\xi\big)

    :math:`\xi` are K logits, 0 at first; a task that improved more than the others gets its logit lowered. w is the
    gradient of :math:`\sum_i (z_i/c) \log D_i`, with c = :math:`\sum_j z_j / D_j`, with respect to the losses.

    Args:
        lr: learning rate of Adam on the logits (0.025: the authors' code).
        gamma: weight decay of the logits, >= 0 (1e-3: LibMTL, TorchJD and most of the authors' scripts, which hold 0,
            1e-5, 1e-3 and 0.01).
        min_losses: b, a lower bound of each task's loss: one for all, one per task in task order, or by task name
            (0: the authors' code). Set it where losses can be <= 0.
        source: what :math:`\delta` is measured on: ``"train"``, the step's own rows, as published; ``"held_out"`` =
            FAMO*: the change of the held-out loss since the record before. D is of training losses in both.

    Raises:
        ValueError: if an argument is outside its domain.

    Example:
        >>> from lightning_coba import replay
        >>> before, after = [[1.0, 1.0]], [[0.5, 0.9]]
        >>> replay(FAMO(), train_losses=before, losses_after_step=after)[-1]  # the first improved more
        tensor([0.4875, 0.5125], dtype=torch.float64)

    References:
        Liu et al., "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023 (arXiv 2306.03792), Algorithm 1.

    **Differs from** the paper and its code:
        * record t's weights (the new logits with D of record t) act from the next optimizer step on; the paper divides
          by the losses of the step itself. Losses are those of the whole step, over all micro-batches and ranks.
        * the loss that is logged and minimised is :math:`\sum_i w_i L_i`, which has the same gradient: the paper's
          weighted logarithms turn negative below 1 and confuse schedulers and early stopping.
        * an absent task has :math:`\delta` = 0 and keeps its last D; a task never seen has the weight 1/K. NaN, inf and
          D <= 0 count as absent: in the code one of them poisons the logits for ever.
        * no clipping of the model's gradient: that is the Trainer's ``gradient_clip_val``.
        * FAMO* compares two passes over held-out rows, which are not the same rows where records are taken on
          mini-batches; CoBa's authors publish no code for it.
    """

    lr: float = 0.025
    gamma: float = 1e-3
    min_losses: float | Sequence[float] | Mapping[str, float] = 0.0
    source: Source = "train"

    def __post_init__(self) -> None:
        """Check the domains."""
        check_number("FAMO.lr", self.lr, above=0)
        check_number("FAMO.gamma", self.gamma, at_least=0)
        check_source("FAMO.source", self.source)
        for value in numbers(self.min_losses):
            check_number("FAMO.min_losses", value)

    @property
    def needs(self) -> frozenset[str]:
        """Training losses before the step, and the losses that tell what it did."""
        return frozenset({"train_losses", "losses_after_step" if self.source == "train" else "losses"})

    def for_tasks(self, tasks: Sequence[str]) -> "FAMO":
        """Put bounds given by name into task order; see :meth:`Balancer.for_tasks`."""
        return replace(self, min_losses=in_task_order("FAMO.min_losses", self.min_losses, tasks))

    def init(
        self, num_tasks: int, initial: Tensor | None = None, device: torch.device | str | None = None
    ) -> FAMOState:
        """Return the state before the first record; see :meth:`Balancer.init`."""
        check_num_tasks(num_tasks)
        if len(numbers(self.min_losses)) not in (1, num_tasks):
            raise UserError(
                f"`FAMO.min_losses` must be one number or {num_tasks}, one per task; got {self.min_losses!r}."
            )
        zeros = torch.zeros(num_tasks, dtype=torch.float64, device=float64_device(device))
        unknown = zeros + torch.nan
        return FAMOState(
            record=0,
            logits=zeros,
            exp_avg=zeros.clone(),
            exp_avg_sq=zeros.clone(),
            num_steps=zeros.clone(),
            distance=unknown,
            held_out=unknown.clone(),
            weights=zeros + 1 / num_tasks,
        )

    def update(self, state: FAMOState, observation: Observation) -> tuple[FAMOState, Tensor]:
        """Take one record; see :meth:`Balancer.update`."""
        assert observation.train_losses is not None
        present = observation.present.to(state.weights.device)
        before = self._distance(observation.train_losses, present, state.weights)
        distance = torch.where(before.isnan(), state.distance, before)
        held_out = state.held_out
        if self.source == "train":
            assert observation.losses_after_step is not None
            after = self._distance(observation.losses_after_step, present, state.weights)
            gain = before.log() - after.log()
        else:
            assert observation.losses is not None
            now = observation.losses.detach().to(held_out)
            now = torch.where(present & now.isfinite() & (now > 0), now, torch.nan)
            gain = held_out.log() - now.log()
            held_out = torch.where(now.isnan(), held_out, now)
        gain = torch.where(gain.isfinite(), gain, 0.0)
        shares = state.logits.softmax(dim=0)
        gradient = shares * (gain - shares @ gain) + self.gamma * state.logits
        # A record without any task is no step of Adam.
        active = (~before.isnan()).any().expand_as(present)
        logits, exp_avg, exp_avg_sq, num_steps = adam_step(
            state.logits, gradient, state.exp_avg, state.exp_avg_sq, state.num_steps, lr=self.lr, active=active
        )
        weights = _weights(logits, distance)
        state = FAMOState(
            record=state.record + 1,
            logits=logits,
            exp_avg=exp_avg,
            exp_avg_sq=exp_avg_sq,
            num_steps=num_steps,
            distance=distance,
            held_out=held_out,
            weights=weights,
        )
        return state, weights

    def _distance(self, losses: Tensor, present: Tensor, like: Tensor) -> Tensor:
        """Return D, NaN where a task is absent or has no logarithm."""
        bounds = torch.tensor(numbers(self.min_losses), dtype=like.dtype, device=like.device)
        distance = losses.detach().to(like) - bounds + EPSILON
        return torch.where(present & distance.isfinite() & (distance > 0), distance, torch.nan)

    def admit(self, state: FAMOState, columns: Sequence[int | None]) -> FAMOState:
        """Continue with added tasks, whose share z is 1/K; see :meth:`Balancer.admit`."""
        fresh = self.init(len(columns), device=state.weights.device)
        level = state.logits.logsumexp(dim=0) - math.log(len(state.logits))
        fresh = fresh._replace(logits=fresh.logits + level, num_steps=fresh.num_steps + state.num_steps.max())
        return admitted(state, fresh, columns)


def _weights(logits: Tensor, distance: Tensor) -> Tensor:
    """Return z / D on the simplex; 1/K for a task whose D is not known, the others share the rest."""
    known = distance.isfinite()
    # Through logarithms: D may be 1e-8.
    scores = torch.where(known, logits - distance.log(), -torch.inf)
    shares = torch.where(known, scores - scores.max(), -torch.inf).exp()
    shares = torch.where(known, shares, 0.0)
    known_share = known.to(distance).mean()
    weights = torch.where(known, shares / shares.sum() * known_share, 1 / len(known))
    return torch.where(known.any(), weights, 1 / len(known))
