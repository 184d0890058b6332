from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightning_coba.balancers.checks import in_task_order, numbers
from lightning_coba.balancers.constant import ConstantBalancer
from lightning_coba.errors import UserError


@dataclass(frozen=True)
class Fixed(ConstantBalancer):
    """Keep weights that somebody chose, normalised to sum 1.

    Use it for hand-tuned weights, and to train a single task of several (give the others 0). Costs nothing.

    Args:
        weights: one number >= 0 per task with a positive sum: in task order, or by task name (the callback puts names
            into order; :func:`~lightning_coba.replay` has no names and takes the mapping's own order).

    Raises:
        ValueError: if a weight is negative or not finite, if all are 0, or if names or numbers do not fit the tasks.

    Example:
        >>> Fixed({"qa": 1, "code": 3}).for_tasks(["code", "qa"]).init(num_tasks=2).weights.tolist()
        [0.75, 0.25]
    """

    weights: Mapping[str, float] | Sequence[float]

    def __post_init__(self) -> None:
        """Check the domain."""
        values = self._values()
        if not values or any(not 0 <= value < float("inf") for value in values) or sum(values) <= 0:
            raise UserError(
                f"`Fixed.weights` must be finite numbers >= 0 with a positive sum; got {self.weights!r}.",
                "Give one per task, as {task: weight} or in task order.",
            )

    def _values(self) -> list[float]:
        return [float(value) for value in numbers(self.weights)]

    def for_tasks(self, tasks: Sequence[str]) -> "Fixed":
        """Put weights given by name into task order; see :meth:`Balancer.for_tasks`."""
        return replace(self, weights=in_task_order("Fixed.weights", self.weights, tasks))

    def _weights(self, num_tasks: int) -> Sequence[float]:
        if len(self.weights) != num_tasks:
            raise UserError(f"`Fixed.weights` must hold {num_tasks} weights, one per task; got {self.weights!r}.")
        return self._values()
