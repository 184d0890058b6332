from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_coba.balancers.base import MATRIX_SIGNALS, Balancer, Observation, check_baseline, float64_device
from lightning_coba.balancers.explain import explain
from lightning_coba.log_keys import BALANCE, task_key
from lightning_coba.simplex.records import PER_TASK_COLUMNS
from lightning_coba.simplex.trajectory import Trajectory

#: Columns of a record that are fields of the balancer's state, where it has them.
STATE_FIELDS = ("slope", "rcs", "acs")


def task_trajectory(num_tasks: int, signals: Sequence[str] = ()) -> Trajectory:
    """Return where the records of K tasks are kept; ``signals`` is what else the balancer is shown, for a replay."""
    return Trajectory(num_tasks, PER_TASK_COLUMNS, ("divergence_factor",), signals)


class Recorder:
    """A balancer at work: its state, the records so far, and the weights with prior and floor.

    Args:
        balancer: with everything named already in task order.
        tasks: names.
        device: of the module; the state lives there in float64, or on the CPU where there is none.
        initial: V(0), ``[K]``; NaN or None = first present record.
        prior: task -> importance.
        min_weight: floor m.

    Raises:
        ValueError: if a baseline is not finite and positive, the prior names no task, or the floor is >= 1/K.
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
        unknown = sorted(set(prior or {}) - set(self.tasks))
        if unknown:
            raise ValueError(f"`prior` names {unknown}; the tasks are: {', '.join(self.tasks)}.")
        if min_weight * len(self.tasks) >= 1:
            raise ValueError(f"`min_weight` must be < 1/{len(self.tasks)}, a {len(self.tasks)}th; got {min_weight}.")
        device = float64_device(device)
        if balancer.signed and min_weight:
            raise ValueError(
                f"`min_weight` must be 0 for {balancer.label}, whose weights may be negative; got {min_weight}. Leave "
                "it out."
            )
        if balancer.baseline_signal is not None:
            check_baseline(initial, tasks=self.tasks)
        self.balancer = balancer
        self.state = balancer.init(len(self.tasks), initial=initial, device=device)
        unknown_baseline = torch.full((len(self.tasks),), torch.nan, dtype=torch.float64, device=device)
        self._baseline = unknown_baseline if initial is None else initial.to(unknown_baseline, copy=True)
        self._ratio = unknown_baseline.clone()
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

    def record(self, step: int, signals: Mapping[str, Tensor], present: Tensor, epoch: int = 0) -> None:
        """Take one record; NaN and inf count as absent and are counted.

        Args:
            step: optimizer step.
            signals: by name, ``[K]`` (or ``[K, K]``): what the balancer needs, and a loss to show: the held-out one
                where there is one, else the training loss.
            present: bool ``[K]``.
            epoch: of the training data.
        """
        values = {name: value.to(self.weights) for name, value in signals.items()}
        losses, present = values.get("losses", values.get("train_losses")), present.to(self.weights.device)
        assert losses is not None
        finite = losses.isfinite()
        if self._shown in self.balancer.needs or not self.balancer.needs:
            self.ignored = self.ignored + (present & ~finite).sum()
        observed, present = present, present & finite
        # A training loss that cannot be divided by counts as absent: a task may begin with a batch of loss 0.
        if not self._has_baseline and self.balancer.baseline_signal == "losses":
            taken = torch.where(self._baseline.isnan() & present, losses, self._baseline)
            check_baseline(taken, tasks=self.tasks)  # waits for the device, until every task has its V(0)
            self._has_baseline = not bool(taken.isnan().any())
        # Loss over V(0) is shown for every balancer, also for those that do not compute with it.
        first = self._baseline.isnan() & present & (losses > 0)
        self._baseline = torch.where(first, losses, self._baseline)
        self._ratio = torch.where(present & (self._baseline > 0), losses / self._baseline, torch.nan)
        needed = {name: values[name] for name in self.balancer.needs}
        observation = Observation(step=step, epoch=epoch, present=observed, **needed)
        self.state, weights = self.balancer.update(self.state, observation)
        previous, self.weights = self.weights, self._shape(weights)
        self._change = (self.weights - previous).abs().sum()
        shown = {"loss": torch.where(present, losses, torch.nan), "ratio": self._ratio, "weight": self.weights}
        held = self.state._asdict() | needed | shown
        kept = self.trajectory
        columns = {name: held[name] for name in kept.column_names if name in held}
        kept.append(step, columns, {name: held[name] for name in kept.scalar_names if name in held})

    def rehearse(self, step: int, signals: Mapping[str, Tensor], present: Tensor) -> None:
        """Do the work of an update and keep nothing of it, so that it can be timed."""
        needed: dict[str, Any] = {name: signals[name].to(self.weights) for name in self.balancer.needs}
        self.balancer.update(self.state, Observation(step=step, present=present.to(self.weights.device), **needed))

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
        """Return :func:`~lightning_coba.balancers.explain` of the state, with the weights in force."""
        return explain(self.state._replace(weights=self.weights), self.tasks)

    def state_dict(self) -> dict[str, Any]:
        """Return dicts, lists, tensors, numbers and strings only."""
        return {
            "tasks": list(self.tasks),
            "balancer": repr(self.balancer),
            "shape": repr((self._prior.tolist(), self.min_weight)),
            "state": self.state._asdict(),
            "baseline": self._baseline,
            "ignored": self.ignored,
            "trajectory": self.trajectory.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any], strict_tasks: bool) -> None:
        """Continue what ``saved`` holds.

        Raises:
            ValueError: if it was written with other tasks (``strict_tasks=False`` admits added ones) or by another
                balancer or other settings.
        """
        before = list(saved["tasks"])
        added = [task for task in self.tasks if task not in before]
        if [task for task in self.tasks if task in before] != before or (added and strict_tasks):
            raise ValueError(
                f"The checkpoint was written with the tasks {', '.join(before)}; this run has "
                f"{', '.join(self.tasks)}. Use the same tasks in the same order, start a new run, or admit added "
                "tasks with strict_tasks=False."
            )
        own = self.state_dict()
        for name in ["balancer"] if added else ["balancer", "shape"]:
            if saved[name] != own[name]:
                raise ValueError(
                    f"The checkpoint was written by {saved['balancer']} with prior and floor {saved['shape']}; this "
                    f"run has {own['balancer']} with {own['shape']}. Resume with the same settings, or start a new run."
                )
        columns = [before.index(task) if task in before else None for task in self.tasks]
        device = self.weights.device
        fields = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in saved["state"].items()}
        state = type(self.state)(**fields)
        self.state = self.balancer.admit(state, columns) if added else state
        self.weights = self._shape(self.state.weights)
        kept = [i for i, column in enumerate(columns) if column is not None]
        self._baseline[kept] = saved["baseline"].to(device)
        self.ignored = saved["ignored"].to(device)
        self.trajectory.load_state_dict(saved["trajectory"], columns)


def baseline_by_name(baseline: Mapping[str, float], tasks: Sequence[str]) -> Tensor:
    """Return V(0) in task order, ``[K]`` float64, NaN where a task is left out; refuse names that are no task."""
    unknown = sorted(set(baseline) - set(tasks))
    if unknown:
        raise ValueError(f"`baseline` names {unknown}; the tasks are: {', '.join(tasks)}.")
    return torch.tensor([float(baseline.get(task, torch.nan)) for task in tasks], dtype=torch.float64)
