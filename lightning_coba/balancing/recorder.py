from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_coba.balancers.account import account
from lightning_coba.balancers.base import (
    MATRIX_SIGNALS,
    Balancer,
    Observation,
    check_baseline,
    float64_device,
    moved,
)
from lightning_coba.balancers.explanation import explain_table
from lightning_coba.balancers.settings import settings
from lightning_coba.balancing.checkpoints import refuse_other_settings, same_columns, same_state
from lightning_coba.errors import UserError
from lightning_coba.log_keys import BALANCE, task_key
from lightning_coba.simplex.records import PER_TASK_COLUMNS
from lightning_coba.simplex.trajectory import Trajectory

#: Columns of a record that are fields of the balancer's state, where it has them.
STATE_FIELDS = ("slope", "rcs", "acs")


class Shown(NamedTuple):
    """What a balancer is shown at one optimizer step.

    Attributes:
        step: Optimizer step.
        signals: By name, ``[K]`` (or ``[K, K]``): what the balancer needs, and a loss to show: the held-out one where
            there is one, else the training loss. ``losses_se`` is an extra.
        present: Which tasks it holds, bool ``[K]``.
    """

    step: int
    signals: Mapping[str, Tensor]
    present: Tensor


def task_trajectory(num_tasks: int, signals: Sequence[str] = ()) -> Trajectory:
    """Return where the records of K tasks are kept; ``signals`` is what else the balancer is shown, for a replay."""
    return Trajectory(num_tasks, PER_TASK_COLUMNS, ("divergence_factor",), signals)


class Recorder:
    """A balancer at work: its state, the records so far, and the weights with prior and floor.

    Args:
        balancer: The balancer, with everything named already in task order.
        tasks: Names.
        device: Device of the module; the state lives there in float64, or on the CPU where there is none.
        initial: V(0), ``[K]``; NaN or None = first present record.
        prior: Task -> importance.
        min_weight: Floor m.

    Raises:
        ValueError: A baseline is not finite and positive, the prior names no task, or the floor is >= 1/K.
    """

    def __init__(
        self,
        balancer: Balancer,
        tasks: Sequence[str],
        device: torch.device,
        initial: Tensor | None = None,
        prior: Mapping[str, float] | None = None,
        min_weight: float = 0.0,
    ) -> None:
        self.tasks = tuple(tasks)
        check_shape_of_weights(balancer, self.tasks, prior, min_weight)
        if balancer.baseline_signal is not None:
            check_baseline(initial, tasks=self.tasks)
        device = float64_device(device)
        self.balancer = balancer
        self.state = balancer.init(len(self.tasks), initial=initial, device=device)
        unknown = torch.full((len(self.tasks),), torch.nan, dtype=torch.float64, device=device)
        self._baseline = unknown if initial is None else moved(initial, unknown).clone()
        self._ratio = unknown.clone()
        self._has_baseline = False
        self._shown = "losses" if "losses" in balancer.needs or "train_losses" not in balancer.needs else "train_losses"
        self.trajectory = task_trajectory(len(self.tasks), sorted(balancer.needs - MATRIX_SIGNALS - {self._shown}))
        self.min_weight = min_weight
        shares = [float((prior or {}).get(task, 1.0)) for task in self.tasks]
        self._prior = torch.tensor(shares, dtype=torch.float64, device=device)
        self._shaped = bool(prior or min_weight)
        self.weights = self._shape(self.state.weights)
        self._change = torch.zeros((), dtype=torch.float64, device=device)
        self.ignored = torch.zeros((), dtype=torch.int64, device=device)

    def _shape(self, weights: Tensor) -> Tensor:
        if not self._shaped:
            return weights  # to the last bit what `replay` gives
        weights = weights * self._prior
        weights = weights / weights.abs().sum()
        return weights * (1 - len(self.tasks) * self.min_weight) + self.min_weight

    def _observation(self, shown: Shown, epoch: int) -> Observation:
        values: dict[str, Any] = {name: moved(shown.signals[name], self.weights) for name in self.balancer.needs}
        if "losses" in values and "losses_se" in shown.signals:
            values["losses_se"] = moved(shown.signals["losses_se"], self.weights)
        return Observation(step=shown.step, epoch=epoch, present=shown.present.to(self.weights.device), **values)

    def record(self, shown: Shown, epoch: int = 0) -> None:
        """Take one record; NaN and inf count as absent and are counted.

        Args:
            shown: What the record holds.
            epoch: Epoch of the training data.
        """
        observation = self._observation(shown, epoch)
        losses = moved(shown.signals["losses" if "losses" in shown.signals else "train_losses"], self.weights)
        finite, present = losses.isfinite(), observation.present
        if self._shown in self.balancer.needs or not self.balancer.needs:
            self.ignored = self.ignored + (present & ~finite).sum()
        present = present & finite
        self._ratio = self._over_baseline(losses, present)
        self.state, weights = self.balancer.update(self.state, observation)
        previous, self.weights = self.weights, self._shape(weights)
        self._change = (self.weights - previous).abs().sum()
        needed = {name: getattr(observation, name) for name in self.balancer.needs}
        own = {"loss": torch.where(present, losses, torch.nan), "ratio": self._ratio, "weight": self.weights}
        held = self.state._asdict() | needed | own
        kept = self.trajectory
        columns = {name: held[name] for name in kept.column_names if name in held}
        kept.append(shown.step, columns, {name: held[name] for name in kept.scalar_names if name in held})

    def _over_baseline(self, losses: Tensor, present: Tensor) -> Tensor:
        """Return loss over V(0), which is shown for every balancer, also for those that do not compute with it."""
        if not self._has_baseline and self.balancer.baseline_signal == "losses":
            taken = torch.where(self._baseline.isnan() & present, losses, self._baseline)
            check_baseline(taken, tasks=self.tasks)  # waits for the device, until every task has its V(0)
            self._has_baseline = not bool(taken.isnan().any())
        # A training loss that cannot be divided by is no baseline: a task may begin with a batch of loss 0.
        first = self._baseline.isnan() & present & (losses > 0)
        self._baseline = torch.where(first, losses, self._baseline)
        return torch.where(present & (self._baseline > 0), losses / self._baseline, torch.nan)

    def rehearse(self, shown: Shown) -> None:
        """Do the work of an update and keep nothing of it, so that it can be timed."""
        self.balancer.update(self.state, self._observation(shown, epoch=0))

    def metrics(self, prefix: str = BALANCE) -> dict[str, Tensor]:
        """Return what is logged after a record, as scalar tensors that nobody has waited for."""
        columns = {"weight": self.weights, "loss_ratio": self._ratio}
        columns |= {field: getattr(self.state, field) for field in STATE_FIELDS if hasattr(self.state, field)}
        values = {
            task_key(f"{prefix}/{name}", task): column[i]
            for name, column in columns.items()
            for i, task in enumerate(self.tasks)
        }
        for name in ("divergence_factor", "scale"):
            if hasattr(self.state, name):
                values[f"{prefix}/{name}"] = getattr(self.state, name)
        return values | {
            f"{prefix}/weight_change": self._change,
            f"{prefix}/ignored_records": self.ignored.double(),
        }

    def explain(self) -> str:
        """Return what the weights did in all records, and why, above a table of the last one."""
        told = account(self.tasks, self.trajectory.columns(), getattr(self.balancer, "window_records", None))
        return "\n".join([*told, *explain_table(self.state._replace(weights=self.weights), self.tasks)])

    def state_dict(self) -> dict[str, Any]:
        """Return dicts, lists, tensors, numbers and strings only."""
        return {
            "tasks": list(self.tasks),
            "balancer": settings(self.balancer),
            "prior": self._prior.tolist(),
            "min_weight": self.min_weight,
            "state": self.state._asdict(),
            "baseline": self._baseline,
            "ignored": self.ignored,
            "trajectory": self.trajectory.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any], strict_tasks: bool) -> None:
        """Continue what ``saved`` holds.

        Raises:
            ValueError: It was written with other tasks (``strict_tasks=False`` admits added ones) or by another
                balancer or other settings.
        """
        columns = same_columns(saved["tasks"], self.tasks, strict_tasks)
        kept = [i for i, column in enumerate(columns) if column is not None]
        added = len(kept) < len(columns)
        shape = None if added else (self._prior.tolist(), self.min_weight)
        refuse_other_settings(saved, self.balancer, shape)
        device = self.weights.device
        state = same_state(saved["state"], self.state, self.balancer.label, device)
        self.state = self.balancer.admit(state, columns) if added else state
        self.weights = self._shape(self.state.weights)
        self._baseline[kept] = saved["baseline"].to(device)
        self.ignored = saved["ignored"].to(device)
        self.trajectory.load_state_dict(saved["trajectory"], columns)


def check_shape_of_weights(
    balancer: Balancer, tasks: Sequence[str], prior: Mapping[str, float] | None, min_weight: float
) -> None:
    """Raise ValueError unless prior and floor fit the tasks and the balancer."""
    unknown = sorted(set(prior or {}) - set(tasks))
    if unknown:
        raise UserError(f"`prior` names {unknown}; the tasks are: {', '.join(tasks)}.")
    if min_weight * len(tasks) >= 1:
        raise UserError(f"`min_weight` must be < 1/{len(tasks)}, a {len(tasks)}th; got {min_weight}.")
    if balancer.signed and min_weight:
        raise UserError(
            f"`min_weight` must be 0 for {balancer.label}, whose weights may be negative; got {min_weight}.",
            "Leave it out.",
        )
