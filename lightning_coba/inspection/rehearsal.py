"""Train a few steps of a run as it would train them, to know what all of them take."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning as L
import numpy as np
import torch

from lightning_coba.data.datamodule import MultitaskDataModule
from lightning_coba.data.planning.loader import EvaluationLoader, PlannedLoader
from lightning_coba.data.planning.planner import Part, Planner
from lightning_coba.inspection.forecast import Measured
from lightning_coba.inspection.steps import computed_tokens

#: Steps before the timed ones, as places in the order of cost: the first ones choose kernels, and the widest one needs
#: more memory after others have left gaps in it.
_WARMUP = (0.5, 1.0, 0.1, 1.0)
_FEWEST_STEPS = 3
#: After so many seconds of timed steps, no more are begun.
_SECONDS = 25.0
#: Steps of the plan whose cost is looked at: evenly spread.
_STEPS_COUNTED = 2000
#: Places in the order of cost at which something is timed; the beginning of the list is spread too.
_PLACES = (0.5, 0.17, 0.83, 0.33, 0.67, 0.08, 0.92, 0.42, 0.58, 0.25, 0.75, 0.97)


def rehearse(
    module: L.LightningModule, data: MultitaskDataModule, trainer: L.Trainer, limit_val_batches: float | int = 1.0
) -> Measured:
    """Train and validate on a few batches of a run, and test where there are test rows.

    Args:
        module: What is trained; it is changed.
        data: Its data, read.
        trainer: A Trainer without an end of its own, that writes nothing.
        limit_val_batches: Of the run's Trainer.
    """
    short = _ShortData(data, limit_val_batches)
    clock = _Clock()
    trainer.callbacks.append(clock)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    trainer.fit(module, datamodule=short)
    trainer.test(module, datamodule=short, verbose=False)
    assert short.training is not None
    on_gpu = module.device.type == "cuda"
    return Measured(
        step_seconds=short.training.mean_seconds(clock.steps, skip=len(_WARMUP)),
        validation_seconds=short.passes["validation"].total_seconds(clock.batches["validation"]),
        test_seconds=short.passes["test"].total_seconds(clock.batches["test"]),
        timed_steps=len(clock.steps) - len(_WARMUP),
        peak_bytes=torch.cuda.max_memory_reserved() if on_gpu else peak_memory(),
        device=torch.cuda.get_device_name() if on_gpu else module.device.type.upper(),
        threads=0 if on_gpu else torch.get_num_threads(),
        precision=str(trainer.precision),
        load=load,
        cores=os.cpu_count() or 1,
        total_bytes=torch.cuda.get_device_properties(module.device).total_memory if on_gpu else installed_memory(),
    )


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # `getrusage` counts the process that has started this one, too
        held = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(held.split()[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def installed_memory() -> int:
    """Return the memory of this machine, in bytes; 0 where it is not known."""
    if not hasattr(os, "sysconf"):  # Windows
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class _Sample(NamedTuple):
    """Some steps or batches of many.

    Attributes:
        numbers: Which ones, in the order in which they are run.
        costs: Tokens that each of them computes.
        all_costs: The same of all that there are.
        total: How many there are.
    """

    numbers: np.ndarray
    costs: np.ndarray
    all_costs: np.ndarray
    total: int

    def mean_seconds(self, seconds: Sequence[float], skip: int = 0) -> float:
        """Return what one of all takes on average, from what those took that were run."""
        timed = np.array(seconds)[skip:]
        return float(timed.sum() / self.costs[skip : skip + len(timed)].sum() * self.all_costs.mean())

    def total_seconds(self, seconds: Sequence[float]) -> float:
        """Return what all take together."""
        return self.mean_seconds(seconds) * self.total if self.total else 0.0


def _sample(costs: np.ndarray, numbers: np.ndarray, total: int, places: Sequence[float]) -> _Sample:
    """Choose some by their place in the order of cost: 0 is the cheapest, 1 the most expensive."""
    order = np.argsort(costs)
    chosen = order[[min(int(place * len(order)), len(order) - 1) for place in places]] if len(order) else order
    return _Sample(numbers[chosen], costs[chosen], costs, total)


class _ShortData(L.LightningDataModule):
    """The batches of a run that are timed; it says what else the module and the callbacks ask of the whole data."""

    def __init__(self, whole: MultitaskDataModule, limit_val_batches: float | int) -> None:
        super().__init__()
        self.whole = whole
        self.task_names = whole.task_names
        self.longest_row = whole.longest_row
        self.limit_val_batches = limit_val_batches
        self.training: _Sample | None = None
        self.passes: dict[str, _Sample] = {}

    def train_dataloader(self) -> PlannedLoader:
        """Return the steps that are timed."""
        self.whole.trainer = self.trainer
        loader = self.whole.train_dataloader()
        planner, num_parts = loader.planner, loader.accumulate * loader.world_size
        planned = planner.num_steps(0)
        numbers = np.unique(np.linspace(0, planned - 1, min(planned, _STEPS_COUNTED)).astype(np.int64))
        lengths = [task.lengths for task in loader.rows]
        costs = np.array([computed_tokens(lengths, planner.parts(number, num_parts)) for number in numbers.tolist()])
        self.training = _sample(costs, numbers, planned, (*_WARMUP, *_PLACES))
        chosen = cast(Planner, _ChosenSteps(planner, self.training.numbers.tolist()))
        return PlannedLoader(chosen, loader.rows, loader.pad_token_id, len(self.training.numbers), self.trainer)

    def val_dataloader(self) -> EvaluationLoader:
        """Return a few batches of a validation pass."""
        return self._few_batches("validation", self.whole.val_dataloader(), self.limit_val_batches)

    def test_dataloader(self) -> EvaluationLoader:
        """Return a few batches of a test."""
        return self._few_batches("test", self.whole.test_dataloader(), 1.0)

    def held_out_dataloaders(self) -> Any:
        """Return the held-out rows, which a balancer draws from between steps."""
        return self.whole.held_out_dataloaders()

    def _few_batches(self, split: str, loader: EvaluationLoader, limit: float | int) -> EvaluationLoader:
        size = loader.batch_size
        batches = [loader.pairs[begin : begin + size] for begin in range(0, len(loader.pairs), size)]
        batches = batches[: int(limit * len(batches)) if isinstance(limit, float) else limit]
        lengths = [np.array([loader.rows[task].lengths[row] for task, row in batch]) for batch in batches]
        costs = np.array([of.max() * len(of) for of in lengths], dtype=np.int64)
        # A batch that is not full has to be the last one.
        full = np.arange(max(len(batches) - 1, min(len(batches), 1)))
        sample = _sample(costs[full], full, len(batches), (1.0, *_PLACES[:3]))
        self.passes[split] = sample._replace(all_costs=costs)
        pairs = [batches[number] for number in sample.numbers]
        rows = np.concatenate(pairs) if pairs else loader.pairs[:0]
        return EvaluationLoader(rows, loader.rows, loader.pad_token_id, size, self.trainer)


class _ChosenSteps:
    """A planner of some steps of another one's plan."""

    def __init__(self, planner: Planner, numbers: Sequence[int]) -> None:
        self.planner = planner
        self.numbers = numbers
        self.batching = planner.batching

    def parts(self, number: int, num_parts: int) -> list[Part]:
        """See `Planner.parts`."""
        return self.planner.parts(self.numbers[number], num_parts)


class _Clock(L.Callback):
    """Measure each optimizer step, and each batch of a pass; end the training once there are enough."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.batches: dict[str, list[float]] = {"validation": [], "test": []}
        self._last = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin."""
        self._last = self._now(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Note a step that is over."""
        if trainer.global_step == len(self.steps):
            return
        now = self._now(pl_module)
        self.steps.append(now - self._last)
        self._last = now
        timed = self.steps[len(_WARMUP) :]
        trainer.should_stop = len(timed) >= _FEWEST_STEPS and sum(timed) > _SECONDS

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the pass before training: it was the first."""
        self.batches["validation"] = []

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Begin a batch."""
        self._last = self._now(pl_module)

    def on_test_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Begin a batch."""
        self._last = self._now(pl_module)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Note a batch."""
        self.batches["validation"].append(self._now(pl_module) - self._last)

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Note a batch."""
        self.batches["test"].append(self._now(pl_module) - self._last)

    @staticmethod
    def _now(pl_module: L.LightningModule) -> float:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        return time.perf_counter()
