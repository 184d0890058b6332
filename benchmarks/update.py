"""One CoBa update, a record taken and its weights: ours against the rule as it was released, after a thousand records.

The released rule is written down here from its description, without its distributed reduction: float64 on the CPU, a
loop over the tasks with one 2x2 solve each, and histories that grow with the run. That it does the same work is
checked: it gives the same weights as our form of it.
"""

import argparse
import statistics
from functools import partial

import torch
from measure import Check, arguments, cpu_seconds, one_quiet_thread, ratios, report, take_turns
from torch import Tensor

from lightning_coba.balancers import CoBa
from lightning_coba.balancers.base import Observation

TEMPERATURE = 5.0


class Released:
    """The released rule and its histories.

    Args:
        window: N, records that a slope looks back on.
        warmup: W, the iteration from which weights are computed.
        initial: V(0), ``[K]``.
    """

    def __init__(self, window: int, warmup: int, initial: Tensor) -> None:
        self.window, self.warmup, self.initial = window, warmup, initial
        self.weights = torch.full_like(initial, 1 / len(initial))
        self._ratios = initial.new_empty(len(initial), 0)  # [K, records]
        self._slopes = initial.new_empty(len(initial), 0)  # [K, iterations from W on]
        self._total_slopes = initial.new_empty(0)

    def take(self, losses: Tensor) -> None:
        """Take records ``[T, K]``, and compute the weights of the iteration that follows each."""
        for row in losses:
            self._ratios = torch.cat([self._ratios, (row / self.initial).unsqueeze(1)], dim=1)
            iteration = self._ratios.shape[1] + 1
            if iteration >= self.warmup:
                self.weights = self._weights(iteration)

    def _weights(self, iteration: int) -> Tensor:
        num_tasks, start = len(self._ratios), max(0, iteration - self.window)
        x = torch.arange(start, iteration, dtype=torch.float64)
        columns = self._ratios[:, -len(x) :]
        slopes = torch.stack([_slope(x, row) for row in columns])
        # The slope of the largest ratio, not the largest slope.
        total_slope = _slope(x, columns.max(dim=0).values)
        self._slopes = torch.cat([self._slopes, slopes.unsqueeze(1)], dim=1)
        self._total_slopes = torch.cat([self._total_slopes, total_slope.unsqueeze(0)])
        relative = torch.softmax(num_tasks * slopes / slopes.abs().sum(), dim=0)
        # Column 0 is iteration W and `start` counts from 0, so a full window holds N - W + 1 slopes.
        recent = self._slopes[:, start:]
        absolute = torch.softmax(-recent.shape[1] * slopes / recent.abs().sum(dim=1), dim=0)
        count = len(self._total_slopes)
        logits = -TEMPERATURE * count * self._total_slopes / self._total_slopes.abs().sum()
        factor = count * torch.softmax(logits, dim=0)[-1]
        weights = torch.softmax(num_tasks * (factor * relative + (1 - factor) * absolute), dim=0)
        floor = 1 / (10 * num_tasks)
        return weights * (1 - num_tasks * floor) + floor if (weights < floor).any() else weights


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """Solve the normal equations of a line through the entries that are not 0."""
    y = y[y != 0]
    x = x[: len(y)]
    if len(y) < 2:
        return y.new_zeros(())
    design = torch.stack([x, torch.ones_like(x)], dim=1)
    # 1, 1, 1, ...: what is left of an exponential weighting.
    powers = (1 ** torch.arange(len(y))).double()
    return torch.linalg.solve(design.T @ (powers[:, None] * design), design.T @ (powers * y))[0]


class Ours:
    """A balancer and its state."""

    def __init__(self, balancer: CoBa, initial: Tensor) -> None:
        self.balancer = balancer
        self.present = torch.ones(len(initial), dtype=torch.bool)
        self.state = balancer.init(len(initial), initial=initial)
        self.weights = self.state.weights

    def take(self, losses: Tensor) -> None:
        """Take records ``[T, K]``."""
        for row in losses:
            observation = Observation(step=self.state.record + 1, present=self.present, losses=row)
            self.state, self.weights = self.balancer.update(self.state, observation)


def curves(records: int, num_tasks: int) -> Tensor:
    """Return noisy losses that fall towards a floor at a pace of their own, ``[records, K]`` float64."""
    pace = torch.linspace(1, 5, num_tasks, dtype=torch.float64) / records
    time = torch.arange(1, records + 1, dtype=torch.float64)[:, None]
    falling = 0.4 + 0.6 * torch.exp(-pace * time)
    return falling * (1 + 0.03 * torch.randn(records, num_tasks, dtype=torch.float64))


def race(num_tasks: int, given: argparse.Namespace) -> tuple[dict[str, list[float]], float]:
    """Bring all contestants to the same record, and let them take turns from there on.

    Returns:
        CPU seconds of an update of each, turn by turn, and the largest difference between the weights of the released
        rule and of our form of it.
    """
    losses = curves(given.records + given.repetitions * given.updates, num_tasks)
    initial = torch.ones(num_tasks, dtype=torch.float64)
    contestants: dict[str, Released | Ours] = {
        "ours": Ours(CoBa(given.window, given.warmup, TEMPERATURE), initial),
        "our mftcoder form": Ours(CoBa(given.window, given.warmup, TEMPERATURE, form="mftcoder"), initial),
        "released": Released(given.window, given.warmup, initial),
    }
    for contestant in contestants.values():
        contestant.take(losses[: given.records])
    rows = {name: iter(losses[given.records :].split(given.updates)) for name in contestants}

    def turn(name: str) -> float:
        block = next(rows[name])
        return cpu_seconds(lambda: contestants[name].take(block)) / len(block)

    costs = take_turns({name: partial(turn, name) for name in contestants}, given.repetitions)
    difference = contestants["released"].weights - contestants["our mftcoder form"].weights
    return costs, difference.abs().max().item()


def main() -> int:
    """Race at each number of tasks."""
    parser = arguments(__doc__, "update", repetitions=15)
    parser.add_argument("--tasks", type=int, default=50, help="number of tasks at which the targets hold")
    parser.add_argument("--also", type=int, nargs="*", default=[5, 500], help="other numbers of tasks, only reported")
    parser.add_argument("--records", type=int, default=1000, help="records before the first that is timed")
    parser.add_argument("--updates", type=int, default=10, help="updates of a turn")
    parser.add_argument("--window", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=100)
    given = parser.parse_args()
    one_quiet_thread()
    torch.manual_seed(given.seed)
    costs, differences = {}, []
    for num_tasks in (given.tasks, *given.also):
        costs[f"{num_tasks} tasks"], difference = race(num_tasks, given)
        differences.append(difference)
    taken = costs[f"{given.tasks} tasks"]
    checks = [
        Check(f"released / ours, {given.tasks} tasks", ratios(taken, "released", "ours"), ">=", 10.0),
        Check(f"ours, {given.tasks} tasks", [1e3 * seconds for seconds in taken["ours"]], "<=", 1.0, "ms"),
        Check("weights of both mftcoder forms, difference", differences, "<=", 1e-8, ""),
    ]
    medians = {
        tasks: {name: round(1e3 * statistics.median(seconds), 4) for name, seconds in turns.items()}
        for tasks, turns in costs.items()
    }
    speedups = {
        tasks: {name: round(statistics.median(ratios(turns, "released", name)), 2) for name in turns}
        for tasks, turns in costs.items()
    }
    return report("update", given, checks, costs, median_ms=medians, released_over=speedups)


if __name__ == "__main__":
    raise SystemExit(main())
