"""How often coba-report claims a difference: where there is none, and where there is one.

Sweeps are simulated and written as run folders, and read and compared as coba-report does it. Two methods that are one
differ by noise alone, which is of one of five kinds: independent for each run and task; shared by the tasks of a run;
both; heavy-tailed; or of very different size from task to task. "Many methods" are five that are all uniform weights.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from measure import Check, arguments, report
from numpy.typing import NDArray

from lightning_coba.reports import compare, group_suites
from lightning_coba.reports.comparison.effects import others, shown
from lightning_coba.runs import read_run

Array = NDArray[np.float64]
#: Standard deviation of a single loss, as a share of it.
NOISE = 0.01
TASKS = 6


def independent(rng: np.random.Generator, tasks: int) -> Array:
    """Return noise that each task of a run has for itself."""
    return rng.normal(size=tasks)


def shared(rng: np.random.Generator, tasks: int) -> Array:
    """Return noise that the tasks of a run have in common."""
    return rng.normal() + 0.2 * rng.normal(size=tasks)


def both(rng: np.random.Generator, tasks: int) -> Array:
    """Return noise of which a part is common to the tasks of a run."""
    return 0.5 * rng.normal() + rng.normal(size=tasks)


def heavy_tailed(rng: np.random.Generator, tasks: int) -> Array:
    """Return noise with runs that are far off."""
    return rng.standard_t(2.5, size=tasks)


def uneven(rng: np.random.Generator, tasks: int) -> Array:
    """Return noise fifty times as large for the last task as for the first."""
    return rng.normal(size=tasks) * np.geomspace(0.1, 5, tasks)


NOISES = (independent, shared, both, heavy_tailed, uneven)
Noise = Callable[[np.random.Generator, int], Array]


def spread_of_mean(noise: Noise, rng: np.random.Generator) -> float:
    """Return the standard deviation over seeds of a method's mean over tasks, as a share of the loss."""
    return NOISE * float(np.std([noise(rng, TASKS).mean() for _ in range(4000)]))


def sweep(noise: Noise, rng: np.random.Generator, methods: Mapping[str, float], seeds: int) -> set[str]:
    """Simulate a sweep and return the methods of which a difference to uniform weights is claimed.

    Args:
        noise: Of a run.
        rng: Where it comes from.
        methods: Name -> how much its losses are changed, as a share.
        seeds: Runs of each method.
    """
    with tempfile.TemporaryDirectory() as folder:
        folders = [
            write_run(Path(folder) / f"{method}-{seed}", method, seed, (1 + change) * (1 + NOISE * noise(rng, TASKS)))
            for method, change in methods.items()
            for seed in range(seeds)
        ]
        [suite] = group_suites(map(read_run, folders))
        comparison = compare(suite, suite.groups[0])
        assert comparison is not None
        found = {comparison.methods[m]: shown(comparison, comparison.key, m) for m in others(comparison)}
    return {method for method, result in found.items() if result in ("better", "worse")}


def write_run(folder: Path, method: str, seed: int, losses: Array) -> Path:
    """Write what coba-report reads of a finished run."""
    tasks = [f"task{k}" for k in range(len(losses))]
    values = {task: float((1 + k) * loss) for k, (task, loss) in enumerate(zip(tasks, losses, strict=True))}
    card: dict[str, Any] = {
        "format_version": 2, "status": "finished", "tasks": tasks, "method": method, "seed": seed, "suite": "simulated",
        "results": {"test_loss": {"better": "min", "values": values}},
    }  # fmt: skip
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(card))
    (folder / "config.yaml").write_text(f"balancer: {{_target_: lightning_coba.balancers.{method}}}\nseed: {seed}\n")
    return folder


def rates(sweeps: int, seed: int) -> Iterator[tuple[str, float]]:
    """Yield what was simulated and the share of the sweeps in which a difference was claimed."""
    for noise in NOISES:
        rng = np.random.default_rng([seed, NOISES.index(noise)])
        kind = noise.__name__.replace("_", " ")
        for seeds in (3, 5):
            claims = [sweep(noise, rng, {"Uniform": 0, "CoBa": 0}, seeds) for _ in range(sweeps)]
            yield f"two methods that are one, {seeds} seeds, noise {kind}", float(np.mean([*map(bool, claims)]))
        many = {"Uniform": 0.0, "CoBa": 0.0, "FAMO": 0.0, "DWA": 0.0, "UW": 0.0, "RLW": 0.0}
        claims = [sweep(noise, rng, many, 5) for _ in range(sweeps)]
        yield f"any of five methods that are one, 5 seeds, noise {kind}", float(np.mean([*map(bool, claims)]))
        spread = spread_of_mean(noise, rng)
        for of_what, factor in (("the paired difference", 2**0.5), ("one method", 1.0)):
            methods = {"Uniform": 0, "CoBa": -2 * factor * spread}
            found = np.mean(["CoBa" in sweep(noise, rng, methods, 5) for _ in range(sweeps)])
            yield f"a difference of twice the spread of {of_what}, 5 seeds, noise {kind}", float(found)


def main() -> int:
    """Simulate the sweeps and check the targets."""
    parser = arguments(__doc__, "report_claims", repetitions=1)
    parser.add_argument("--sweeps", type=int, default=2000, help="of each kind; few miss by chance")
    given = parser.parse_args()
    checks, details = [], {}
    for what, rate in rates(given.sweeps, given.seed):
        details[what] = rate
        if "that are one" in what:
            checks.append(Check(what, [100 * rate], "<=", 5, " %"))
        elif "paired" in what:
            checks.append(Check(what, [100 * rate], ">=", 80, " %"))
    return report("report_claims", given, checks, {"rates": details})


if __name__ == "__main__":
    raise SystemExit(main())
