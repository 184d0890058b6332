import lightning as L

from lightning_coba.balancing import notices
from lightning_coba.balancing.task_weights import TaskWeights

#: Training batches after which weights that nobody read are reported.
BATCHES_TO_USE = 10


class Usage:
    """Finds out whether training reads the weights, and of which tasks; what validation reads does not count.

    Args:
        weights: The weights that are watched.
        caller: Name of the callback, for what is said.
        attribute: Name of the weights in the module.
    """

    def __init__(self, weights: TaskWeights, caller: str, attribute: str) -> None:
        self.weights = weights
        self.caller = caller
        self.attribute = attribute
        self._batches = 0
        self._before_pass: tuple[bool, set[str]] = (False, set())

    def begin_training(self) -> None:
        """Forget what was read before the first step."""
        self._batches = 0
        self.weights.used = False
        self.weights.received.clear()

    def end_batch(self, module: L.LightningModule) -> None:
        """Count a training batch; warn when it was time to read the weights."""
        self._batches += 1
        if self._batches == BATCHES_TO_USE:
            self._warn_if_unused(module)

    def end_training(self, module: L.LightningModule) -> None:
        """Warn if the run was too short to notice earlier."""
        if 0 < self._batches < BATCHES_TO_USE:
            self._warn_if_unused(module)

    def begin_pass(self) -> None:
        """Remember what was read before a validation pass."""
        self._before_pass = self.weights.used, set(self.weights.received)

    def end_pass(self) -> None:
        """Go back to that."""
        self.weights.used, self.weights.received = self._before_pass

    def _warn_if_unused(self, module: L.LightningModule) -> None:
        if not self.weights.used:
            notices.warn_of_unused_weights(self.caller, module, self.attribute)
