from collections import deque
from statistics import median
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_coba.balancing.notices import SHARDED_STRATEGIES
from lightning_coba.balancing.publish import publish
from lightning_coba.errors import UserError
from lightning_coba.functional import Snapshot
from lightning_coba.log_keys import LOSS_SPIKES

#: A standard deviation in median absolute deviations, for normal losses.
SCALE = 1.4826
#: The least scale, as a share of the median: losses that hardly vary make no spike of every small change.
LEAST_SCALE = 0.05


class LossSpikeGuard(L.Callback):
    r"""Keep one bad batch from ruining a training: drop the step of a loss far above its recent level.

    Use it where losses jump now and then (broken rows, a learning rate at its limit), not in every run. A step's loss
    :math:`l`, the mean over its accumulation window and over ranks, is a spike where it is not finite, or

    .. math:: l > m + \theta \max(1.4826\,\mathrm{MAD}, 0.05\,|m|)

    with :math:`m` and MAD the median and the median absolute deviation of the last ``window_steps`` losses and
    :math:`\theta` the ``threshold``. Spikes are among these losses, so that a level that stays becomes the new one
    after half a window.

    Every rank decides alike. It costs one look at the loss per step, for which the device is waited for. A training
    without a spike is bit for bit the one without the guard, and a resumed one goes on exactly. Each event is counted
    in the metric ``loss_spikes`` and printed in one line. Put it behind the balancer; automatic optimization only.

    Args:
        action: ``"skip"`` drops the gradients of the step, so that weights and optimizer stay as they are;
            ``"rollback"`` does that and puts back the weights and the optimizer's state of the last step, of every
            n-th, whose loss was no spike. Learning rate, buffers and the balancer go on.
        threshold: :math:`\theta`, in robust standard deviations above the median.
        window_steps: Optimizer steps whose losses are the recent level.
        warmup_steps: Steps before which only a loss that is not finite is a spike.
        every_n_steps: For ``"rollback"``: steps between two copies of trained weights and optimizer state in memory.
            The copy is part of each checkpoint, which gets that much larger.

    Raises:
        ValueError: An argument is outside its domain; or, when a fit starts, the module optimizes by hand, the
            optimizer evaluates the loss several times per step, or a rank holds only a part of each weight.

    Example:
        >>> guard = LossSpikeGuard(action="rollback", every_n_steps=20)
        >>> guard.num_spikes
        0
    """

    def __init__(
        self,
        action: Literal["skip", "rollback"] = "skip",
        threshold: float = 10.0,
        window_steps: int = 64,
        warmup_steps: int = 16,
        every_n_steps: int = 50,
    ) -> None:
        if action not in ("skip", "rollback"):
            raise UserError(f'`LossSpikeGuard.action` must be "skip" or "rollback"; got {action!r}.')
        if not 0 < threshold < float("inf"):
            raise UserError(f"`LossSpikeGuard.threshold` must be a number > 0; got {threshold!r}.")
        for name, value in (("warmup_steps", warmup_steps), ("every_n_steps", every_n_steps)):
            if type(value) is not int or value < 1:
                raise UserError(f"`LossSpikeGuard.{name}` must be an integer >= 1; got {value!r}.")
        if type(window_steps) is not int or window_steps < warmup_steps:
            raise UserError(
                f"`LossSpikeGuard.window_steps` must be an integer >= warmup_steps, {warmup_steps}; got "
                f"{window_steps!r}."
            )
        self.action = action
        self.threshold = threshold
        self.warmup_steps = warmup_steps
        self.every_n_steps = every_n_steps
        self.num_spikes = 0
        self._losses: deque[float] = deque(maxlen=window_steps)
        self._window: Tensor | None = None  # sum of the losses of the accumulation window under way
        self._snapshot = Snapshot()
        self._rolls_back = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what the guard cannot work with."""
        self._window, self._rolls_back = None, False
        if not pl_module.automatic_optimization or any(isinstance(o, torch.optim.LBFGS) for o in trainer.optimizers):
            raise UserError(
                f"LossSpikeGuard needs one loss per step; {type(pl_module).__name__} uses manual optimization or "
                "LBFGS.",
                "Leave the guard out.",
            )
        strategy = type(trainer.strategy).__name__
        if any(kind in strategy for kind in SHARDED_STRATEGIES):
            raise UserError(
                f"LossSpikeGuard needs whole weights on each rank, and {strategy} shards them.",
                "Use strategy=ddp, or leave the guard out.",
            )

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Add the loss of a batch to that of its step."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        own = loss.detach() if scaler is None else loss.detach() / scaler.get_scale()
        self._window = own if self._window is None else self._window + own

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge the step's loss; drop its gradients where it is a spike."""
        if self._window is None:  # the step has no batch with a loss
            return
        loss, self._window = float(trainer.strategy.reduce(self._window.clone(), reduce_op="mean")), None  # type: ignore[arg-type]
        limit = self._limit()
        is_spike = not loss <= limit  # NaN too
        if loss < float("inf"):
            self._losses.append(loss)
        if not is_spike:
            if self.action == "rollback" and trainer.global_step % self.every_n_steps == 0:
                self._snapshot.take(pl_module, trainer.optimizers, trainer.global_step)
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # an optimizer leaves alone what has no gradient
        self.num_spikes += 1
        self._rolls_back = self.action == "rollback" and self._snapshot.is_there
        self._say(trainer, loss, limit)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Put back the copy, once the optimizer has made its empty step."""
        if self._rolls_back:
            self._rolls_back = False
            self._snapshot.put_back(pl_module, trainer.optimizers)

    def _limit(self) -> float:
        if len(self._losses) < self.warmup_steps:
            return torch.finfo(torch.float64).max
        middle = median(self._losses)
        deviation = median(abs(loss - middle) for loss in self._losses)
        return middle + self.threshold * max(SCALE * deviation, LEAST_SCALE * abs(middle))

    def _say(self, trainer: L.Trainer, loss: float, limit: float) -> None:
        step = trainer.global_step + 1
        done = f"back to the weights of step {self._snapshot.step}" if self._rolls_back else "step skipped"
        above = f" is above {limit:.4g}" if loss < float("inf") else " is not finite"
        rank_zero_info(f"Loss spike {self.num_spikes}: the training loss {loss:.4g} of step {step}{above}; {done}.")
        publish(trainer, {LOSS_SPIKES: torch.tensor(float(self.num_spikes))})

    def state_dict(self) -> dict[str, Any]:
        """Return the recent losses, the count, and the copy of weights and optimizer state."""
        return {
            "losses": list(self._losses),
            "num_spikes": self.num_spikes,
            "snapshot": self._snapshot.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._losses.clear()
        self._losses.extend(state_dict["losses"])
        self.num_spikes = state_dict["num_spikes"]
        self._snapshot.load_state_dict(state_dict["snapshot"])
