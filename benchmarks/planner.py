"""Plan an epoch of a million rows of fifty tasks: seconds, memory, and whether twice the rows cost twice the time."""

from typing import Any

import numpy as np
from measure import Check, arguments, cpu_seconds, one_quiet_thread, peak_mb, report

from lightning_coba.data.planning.mixing import Mixing
from lightning_coba.data.planning.planner import Batching, Planner

KINDS: tuple[Batching, ...] = ("grouped", "packed", "random")
#: The cost of a row is compared with that in an epoch of so many times fewer rows.
SHRINK = 4


def lengths(rows: int, num_tasks: int, max_length: int, seed: int) -> list[np.ndarray]:
    """Return log-normal row lengths of tasks whose sizes differ a hundredfold."""
    generator = np.random.default_rng(seed)
    sizes = np.maximum(1, np.geomspace(1, 100, num_tasks) / np.geomspace(1, 100, num_tasks).sum() * rows).astype(int)
    sizes[-1] += rows - sizes.sum()
    means = generator.uniform(3, 6, num_tasks)
    return [
        generator.lognormal(mean, 0.6, size).clip(3, max_length).astype(np.int32)
        for mean, size in zip(means, sizes, strict=True)
    ]


def epoch(batching: Batching, rows: int, num_tasks: int, max_length: int, seed: int) -> tuple[float, float]:
    """Return CPU seconds and peak memory in MB of planning one epoch."""
    tokens = lengths(rows, num_tasks, max_length, seed)
    measured: list[float] = []

    def plan() -> None:
        Planner(tokens, Mixing(), "all", 16, batching, max_length, seed=seed).plan(0)

    peak = peak_mb(lambda: measured.append(cpu_seconds(plan)))
    return measured[0], peak


def main() -> int:
    """Plan epochs of each kind."""
    parser = arguments(__doc__, "planner", repetitions=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--max-length", type=int, default=1024)
    given = parser.parse_args()
    one_quiet_thread()
    checks: list[Check] = []
    costs: dict[str, Any] = {}
    for batching in KINDS:
        seeds = range(given.seed, given.seed + given.repetitions)
        whole, part = (
            [epoch(batching, rows, given.tasks, given.max_length, seed) for seed in seeds]
            for rows in (given.rows, given.rows // SHRINK)
        )
        costs[batching] = {"whole": whole, f"a {SHRINK}th": part}
        growth = [large / (SHRINK * small) for (large, _), (small, _) in zip(whole, part, strict=True)]
        checks += [
            Check(f"{batching}, an epoch", [seconds for seconds, _ in whole], "<=", 3.0, "s"),
            Check(f"{batching}, peak memory", [mb for _, mb in whole], "<=", 200, "MB"),
            Check(f"{batching}, cost of a row against {SHRINK} times fewer rows", growth, "<=", 1.3),
        ]
    return report("planner", given, checks, costs)


if __name__ == "__main__":
    raise SystemExit(main())
