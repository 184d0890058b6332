import os
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_coba.balancers.base import Balancer, float64_device
from lightning_coba.balancing import notices
from lightning_coba.balancing.cadence import Cadence
from lightning_coba.balancing.checkpoints import was_written_by_0_4
from lightning_coba.balancing.publish import is_log_step, publish
from lightning_coba.balancing.rank_agreement import RankAgreement
from lightning_coba.balancing.recorder import Recorder, Shown
from lightning_coba.balancing.step_signals import means_or_nan
from lightning_coba.log_keys import simplex_prefix


class Records:
    """The life of a callback's records: empty, then begun from a baseline or a checkpoint, then one after the other.

    Fits come and go, and the records stay. What a checkpoint holds is what is here, and nothing of it is elsewhere.

    Args:
        caller: Name of the callback, for what is said.
        name: Name of the balance: ``"balance"``, or the attribute of a second one.
        cadence: When records are taken.
        prior: Task -> importance.
        min_weight: Floor.
        strict_tasks: Whether a checkpoint must have all tasks.

    Attributes:
        recorder: The balancer at work; None until records have begun.
        steps: Optimizer steps of all fits, from which the step cadence counts.
        seed: Seed of the held-out draws; None until it is first asked for.
        pass_is_due: Whether a validation pass is due and was not run yet.
        last_step: Optimizer step of this fit whose parameters were seen last; None = none were.
    """

    def __init__(
        self,
        caller: str,
        name: str,
        cadence: Cadence,
        prior: Mapping[str, float] | None,
        min_weight: float,
        strict_tasks: bool,
    ) -> None:
        self.caller = caller
        self.log_prefix = simplex_prefix(name)
        self.cadence = cadence
        self.prior = prior
        self.min_weight = min_weight
        self.strict_tasks = strict_tasks
        self.recorder: Recorder | None = None
        self.steps = 0
        self.seed: int | None = None
        self.pass_is_due = False
        self.last_step: int | None = None
        self._agreement = RankAgreement()
        self._train_totals: Tensor | None = None
        self._loaded: dict[str, Any] | None = None
        self._resumed: dict[str, Any] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of the records, or of the checkpoint that was loaded; empty where there are neither."""
        if self._resumed is not None:
            return tuple(self._resumed["recorder"]["tasks"])
        return self.recorder.tasks if self.recorder else ()

    def __len__(self) -> int:
        """Return the number of records; no device is asked for values."""
        return self.recorder.trajectory.num_records if self.recorder else 0

    # ------------------------------------------------------------------ begin

    def begin_fit(self) -> None:
        """Take over the counts of the checkpoint that was loaded, if any."""
        # Steps of different fits are never compared: a second Trainer counts from 0 again.
        self.last_step = None
        self._resumed, self._loaded = self._loaded, None
        if self._resumed is not None:
            self.steps, self.seed = self._resumed["steps"], self._resumed["seed"]

    def go_on(self, balancer: Balancer, tasks: tuple[str, ...], device: torch.device) -> None:
        """Continue the records of the checkpoint, or those of an earlier fit; do nothing where there are neither.

        Raises:
            ValueError: They are of other tasks, or the checkpoint has other settings or another cadence.
        """
        saved, self._resumed = self._resumed, None
        if saved is None:
            if self.recorder is not None:
                notices.refuse_other_tasks(self.recorder.tasks, tasks)
            return
        self.begin(balancer, tasks, device, None)
        assert self.recorder is not None
        self.recorder.load_state_dict(saved["recorder"], self.strict_tasks)
        notices.refuse_other_cadence(saved.get("cadence", "an older version"), str(self.cadence))
        if self.cadence.budget is not None:
            self.cadence.budget.interval = saved["interval"]
        self._train_totals = self._totals_for(tasks, saved)
        # The resumed Trainer goes on counting, so this is the same fit.
        self.last_step = self.recorder.trajectory.steps[-1] if len(self) else None
        if saved["pass_is_due"]:
            notices.warn_of_lost_pass(self.caller)
        if self.cadence.reads_held_out_rows and was_written_by_0_4(saved["recorder"]):
            notices.announce_other_draws(self.caller)

    def begin(self, balancer: Balancer, tasks: tuple[str, ...], device: torch.device, initial: Tensor | None) -> None:
        """Begin with no record, from the baseline ``initial``, ``[K]`` or None."""
        self.recorder = Recorder(balancer.for_tasks(tasks), tasks, device, initial, self.prior, self.min_weight)

    def settled_seed(self) -> int:
        """Return the seed of the held-out draws: the checkpoint's, that of an earlier fit, or the run's."""
        if self.seed is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        return self.seed

    # ------------------------------------------------------------------ go on

    def take(self, trainer: L.Trainer, shown: Shown) -> None:
        """Take a record and publish what follows from it; while steps are timed, only do the work."""
        assert self.recorder is not None
        if self.cadence.timing:
            self.recorder.rehearse(shown)
            return
        self.recorder.record(shown, trainer.current_epoch)
        self.last_step = shown.step
        self._agreement.compare(self.recorder.weights, trainer)
        # Of records of steps only those that are logged: to look at the outcome waits for the device.
        if not self.cadence.interval or is_log_step(trainer, shown.step, self.cadence.interval):
            self.refuse_difference(trainer)
        publish(trainer, self.recorder.metrics(self.log_prefix), self.cadence.is_logged(trainer, shown.step))

    def refuse_difference(self, trainer: L.Trainer) -> None:
        """Raise RuntimeError on every rank if the ranks' weights differ; waits for the device."""
        if self.recorder is not None:
            self._agreement.refuse_difference(self.tasks, self.recorder.weights, trainer)

    def add_step(self, totals: Tensor) -> None:
        """Add the training losses of an optimizer step, over all ranks: sums and counts ``[2, K]``."""
        self._train_totals = totals if self._train_totals is None else self._train_totals + totals

    def train_losses(self) -> Tensor:
        """Return the mean training loss of each task since the last time, ``[K]``, and begin anew."""
        assert self.recorder is not None
        totals, self._train_totals = self._train_totals, None
        return torch.full_like(self.recorder.weights, torch.nan) if totals is None else means_or_nan(*totals)

    # ------------------------------------------------------------------ checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Return dicts, lists, tensors, numbers and strings only: Lightning loads with ``weights_only=True``."""
        return {
            "recorder": self.recorder.state_dict() if self.recorder else None,
            "steps": self.steps,
            "seed": self.seed,
            "cadence": str(self.cadence),
            "interval": self.cadence.interval,
            "pass_is_due": self.pass_is_due,
            "train_totals": self._train_totals,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the fit starts; one without records (a tuner's, say) restores nothing."""
        if state_dict.get("recorder") is not None:
            self._loaded = state_dict

    def take_back(self, state_dict: dict[str, Any], balancer: Balancer) -> None:
        """Take over the records that a fit in processes of its own has ended with."""
        self.recorder = None
        self.load_state_dict(state_dict | {"pass_is_due": False})  # the fit is over
        self.begin_fit()
        self.go_on(balancer, self.tasks, torch.device("cpu"))

    @property
    def has_loaded(self) -> bool:
        """Whether a checkpoint was loaded that no fit has taken over."""
        return self._loaded is not None

    def forget_loaded(self) -> None:
        """Drop a state that was handed back inside the fit: by the next one it is old."""
        self._loaded = None

    def _totals_for(self, tasks: tuple[str, ...], saved: Mapping[str, Any]) -> Tensor | None:
        """Return the saved sums in the order of ``tasks``; an added task has none."""
        assert self.recorder is not None
        totals = saved.get("train_totals")
        if totals is None:
            return None
        before = saved["recorder"]["tasks"]
        widened = torch.zeros(2, len(tasks), dtype=torch.float64, device=float64_device(self.recorder.weights.device))
        widened[:, [tasks.index(task) for task in before]] = totals.to(widened.device)
        return widened
