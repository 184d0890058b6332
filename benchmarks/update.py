"""One CoBa update, a record taken and its weights: ours against the rule as it was released, after a thousand records.

The released rule is written down here from its description, without its distributed reduction: float64 on the CPU, a
loop over the tasks with one 2x2 solve each, and histories that grow with the run. That both do the same work is checked:
on the same losses they give the same weights.
"""

from functools import partial

import torch
from measure import Check, arguments, cpu_seconds, one_quiet_thread, ratios, report, take_turns
from torch import Tensor

from lightning_coba.balancers import CoBa
from lightning_coba.balancers.base import Observation

TEMPERATURE = 5.0
#: Number of tasks at which the targets hold.
TARGET_TASKS = 50


class ReleasedCoBa:
    """The released update; ``append`` takes a record's loss ratios, ``weights`` follows from all of them.

    Args:
        window: N, records that a slope looks back on.
        warmup: W, the iteration that begins the histories of slopes.
    """

    def __init__(self, window: int, warmup: int) -> None:
        self.window, self.warmup = window, warmup
        self.ratios: Tensor | None = None  # [K, records]
        self.slopes: Tensor | None = None  # [K, slopes]
        self.total_slopes: Tensor | None = None  # [slopes]

    def append(self, ratios: Tensor) -> None:
        """Add a column."""
        column = ratios.unsqueeze(1)
        self.ratios = column if self.ratios is None else torch.cat([self.ratios, column], dim=1)

    def weights(self) -> Tensor:
        """Return the weights of the iteration after the last column, ``[K]``."""
        assert self.ratios is not None
        num_tasks, iteration = len(self.ratios), self.ratios.shape[1] + 1
        start = max(0, iteration - self.window)
        x = torch.arange(start, iteration, dtype=torch.float64)
        columns = self.ratios[:, -len(x) :]
        slopes = torch.stack([_slope(x, row) for row in columns])
        total = _slope(x, columns.max(dim=0).values).unsqueeze(0)
        if self.slopes is None or self.total_slopes is None:
            self.slopes, self.total_slopes = slopes.unsqueeze(1), total
        else:
            self.slopes = torch.cat([self.slopes, slopes.unsqueeze(1)], dim=1)
            self.total_slopes = torch.cat([self.total_slopes, total])
        relative = torch.softmax(num_tasks * slopes / slopes.abs().sum(), dim=0)
        recent = self.slopes[:, start:]  # counted from W, the start from 0: N - W + 1 columns
        absolute = torch.softmax(-recent.shape[1] * slopes / recent.abs().sum(dim=1), dim=0)
        count = len(self.total_slopes)
        scaled = -count * self.total_slopes / self.total_slopes.abs().sum()
        factor = count * torch.softmax(TEMPERATURE * scaled, dim=0)[-1]
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
    return torch.linalg.solve(design.T @ design, design.T @ y)[0]


class Ours:
    """A balancer and the state that it is in."""

    def __init__(self, balancer: CoBa, initial: Tensor) -> None:
        self.balancer = balancer
        self.present = torch.ones(len(initial), dtype=torch.bool)
        self.state = balancer.init(len(initial), initial=initial)

    def record(self, losses: Tensor) -> Tensor:
        """Take a record and return the weights."""
        observation = Observation(step=self.state.record + 1, present=self.present, losses=losses)
        self.state, weights = self.balancer.update(self.state, observation)
        return weights


def curves(records: int, num_tasks: int) -> Tensor:
    """Return noisy losses that fall towards a floor at a pace of their own, ``[records, K]`` float64."""
    pace = torch.linspace(1, 5, num_tasks, dtype=torch.float64) / records
    time = torch.arange(1, records + 1, dtype=torch.float64)[:, None]
    falling = 0.4 + 0.6 * torch.exp(-pace * time)
    return falling * (1 + 0.03 * torch.randn(records, num_tasks, dtype=torch.float64))


def race(num_tasks: int, records: int, window: int, warmup: int, repetitions: int) -> tuple[dict[str, list[float]], float]:
    """Bring all contestants to the same record, let them take turns from there on.

    Returns:
        CPU seconds of each one's updates, and the largest difference between weights of the released rule and of our
        form of it.
    """
    losses = curves(records + repetitions, num_tasks)
    initial = torch.ones(num_tasks, dtype=torch.float64)
    ours = {form: Ours(CoBa(window, warmup, TEMPERATURE, form), initial) for form in ("paper", "mftcoder")}
    released, weights = ReleasedCoBa(window, warmup), {}

    def released_record(row: Tensor) -> None:
        released.append(row / initial)
        if released.ratios is not None and released.ratios.shape[1] + 1 >= warmup:
            weights["released"] = released.weights()

    def own_record(form: str, row: Tensor) -> None:
        weights[form] = ours[form].record(row)

    takes = {"ours": partial(own_record, "paper"), "our mftcoder form": partial(own_record, "mftcoder")}
    takes["released"] = released_record
    for row in losses[:records]:
        for take in takes.values():
            take(row)
    # Each has an own place in the rows that follow.
    rows = {name: iter(losses[records:]) for name in takes}
    turns = {name: lambda name=name: cpu_seconds(lambda: takes[name](next(rows[name]))) for name in takes}
    costs = take_turns(turns, repetitions)
    return costs, (weights["released"] - weights["mftcoder"]).abs().max().item()


def main() -> int:
    """Race at each number of tasks."""
    parser = arguments(__doc__, "update", repetitions=200)
    parser.add_argument("--tasks", type=int, nargs="+", default=[5, 50, 500])
    parser.add_argument("--records", type=int, default=1000, help="records before the first that is timed")
    parser.add_argument("--window", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=100)
    given = parser.parse_args()
    one_quiet_thread()
    torch.manual_seed(given.seed)
    checks, costs, differences = [], {}, []
    for num_tasks in given.tasks:
        taken, difference = race(num_tasks, given.records, given.window, given.warmup, given.repetitions)
        costs[f"{num_tasks} tasks"] = taken
        differences.append(difference)
    return report("update", given, checks, costs)


if __name__ == "__main__":
    raise SystemExit(main())
