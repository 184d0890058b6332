"""What balancing costs a training step of SmolLM2 with LoRA, method by method, against uniform weights.

All contestants train on the same batches, a row of each task in every one, and log everything at every step. They take
turns step by step, so that a busy machine slows all of them alike. Validation passes are the same for all and not
counted; what CoBa makes of one is.
"""

import argparse
import copy
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import lightning as L
import numpy as np
import torch
from clocks import LightningClock
from contestants import OPTIMIZER, lora
from measure import MODEL, Check, arguments, one_quiet_thread, ratios, report, take_turns
from synthetic import byte_tokenizer, random_batch, tiny_llama
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_coba import ConvergenceBalancer, MultitaskLM, TaskBalancing
from lightning_coba.balancers import DWA, FAMO, LBTW, MGDA, UW, GradNorm, MetaWeighting, Uniform
from lightning_coba.data.planning.collate import collate
from lightning_coba.loggers import MetricsCSV
from lightning_coba.models import load_language_model

#: Optimizer steps of a turn: CoBa's wider step cadence, and the distance of validation passes.
EVERY = 10
PEER = "Uniform"
#: Cost of a step relative to uniform weights; methods that are not named are only reported.
TARGETS = {
    "CoBa, validation": 1.03,
    f"CoBa, every {EVERY} steps": 1.06,
    "CoBa, every step": 1.55,
    "GradNorm": 1.35,
    "LBTW": 1.02,
    "DWA": 1.02,
}
#: The interval of ``max_overhead`` follows from six timed records: their noise may take the share a tenth too far.
SLACK = 1.1

Batch = Mapping[str, Tensor]
Balancing = Callable[[], TaskBalancing]


class SteppedFit(L.Callback):
    """A fit that stops after every optimizer step, in a thread of its own; list it first among the callbacks.

    Args:
        fit: gets this callback and runs to its end.
    """

    def __init__(self, fit: Callable[[L.Callback], None]) -> None:
        self._orders, self._replies = queue.SimpleQueue[None](), queue.SimpleQueue[BaseException | None]()
        self._thread = threading.Thread(target=self._run, args=(fit,), daemon=True)
        self._validation = 0.0

    def _run(self, fit: Callable[[L.Callback], None]) -> None:
        self._orders.get()
        try:
            fit(self)
            self._replies.put(None)
        except BaseException as error:
            self._replies.put(error)

    def step(self) -> float:
        """Go on to the end of the next step; return CPU seconds, without those of a validation pass."""
        start, self._validation = time.process_time(), 0.0
        self._orders.put(None)
        error = self._replies.get()
        if error is not None:
            raise error
        return time.process_time() - start - self._validation

    def start(self) -> None:
        """Take the first step, which pays for the set-up."""
        self._thread.start()
        self.step()

    def finish(self) -> None:
        """Let the fit end after its last step."""
        self.step()
        self._thread.join()

    def on_train_batch_end(self, *_: Any) -> None:
        """Hand back; what other callbacks do at the end of this step is part of the next one."""
        self._replies.put(None)
        self._orders.get()

    def on_validation_start(self, *_: Any) -> None:
        """Begin a pass."""
        self._validation -= time.process_time()

    def on_validation_end(self, *_: Any) -> None:
        """End it before the balancer makes something of it."""
        self._validation += time.process_time()


class RandomRows:
    """Rows of a task as `collate` takes them; each ends in ``share`` of completion tokens."""

    def __init__(self, rows: int, length: int, share: float, vocabulary: int) -> None:
        self._ids = torch.randint(vocabulary, (rows, length), dtype=torch.int32).numpy()
        self._learned = np.arange(length) >= length - round(share * length)

    def take(self, indices: Iterable[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (ids, learned) of some rows."""
        return [(self._ids[index], self._learned) for index in indices]


class Workload:
    """A model and what it is trained on: batches with one row per task, and held-out rows of each task."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        steps: int,
        given: argparse.Namespace,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.tasks = [f"task{i}" for i in range(given.tasks)]
        size = (given.length, given.completion)
        vocabulary = model.config.vocab_size
        self.batches = [random_batch(given.tasks, *size, given.tasks, vocabulary) for _ in range(steps)]
        self.validation = [random_batch(given.tasks, *size, given.tasks, vocabulary)]
        # As those of MultitaskDataModule: (task, row) pairs, and one function that makes a batch of any of them.
        rows = [RandomRows(given.held_out, *size, vocabulary) for _ in self.tasks]
        together = partial(collate, tasks=rows, pad_token_id=0)  # type: ignore[arg-type]  # they have what it reads
        together.mixes_tasks = True  # type: ignore[attr-defined]  # as those of MultitaskDataModule
        # A batch size of K makes a held-out mini-batch of one row per task, as large as a batch of training.
        self.held_out: dict[str, DataLoader] = {
            task: DataLoader(
                [(index, row) for row in range(given.held_out)],  # type: ignore[arg-type]  # a list is map-style
                batch_size=given.tasks,
                collate_fn=together,
            )
            for index, task in enumerate(self.tasks)
        }

    def fit(self, balancing: TaskBalancing, clock: L.Callback, validate: bool = True) -> None:
        """Train on every batch once, with a validation pass every few steps."""
        # Frozen weights are shared, each fit has its own adapter.
        model = copy.deepcopy(self.model, {id(p): p for p in self.model.parameters()})
        module = MultitaskLM(model, self.tokenizer, lora(), OPTIMIZER, tasks=self.tasks)
        with tempfile.TemporaryDirectory() as folder:
            L.Trainer(
                accelerator="cpu",
                max_steps=len(self.batches),
                limit_val_batches=1.0 if validate else 0,
                val_check_interval=EVERY,
                check_val_every_n_epoch=None,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
                logger=MetricsCSV(folder),
                callbacks=[clock, balancing],
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                use_distributed_sampler=False,
            ).fit(module, _loader(self.batches), _loader(self.validation))


def _loader(batches: Sequence[Batch]) -> DataLoader:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list is a map-style dataset


def balancings(work: Workload) -> dict[str, Balancing]:
    """Return each contestant's callback; defaults, but for blocks of DWA so short that several end."""
    tasks, held_out = work.tasks, work.held_out
    # The baseline before training would be a pass over the held-out rows.
    coba = partial(ConvergenceBalancer, tasks, held_out=held_out, baseline="first_record")
    return {
        PEER: lambda: TaskBalancing(Uniform(), tasks),
        "CoBa, validation": lambda: ConvergenceBalancer(tasks),
        f"CoBa, every {EVERY} steps": lambda: coba(every_n_steps=EVERY),
        "CoBa, every step": lambda: coba(every_n_steps=1),
        "GradNorm": lambda: TaskBalancing(GradNorm(), tasks),
        "LBTW": lambda: TaskBalancing(LBTW(), tasks),
        "DWA": lambda: TaskBalancing(DWA(block_records=EVERY), tasks),
        "FAMO": lambda: TaskBalancing(FAMO(), tasks),
        "UW": lambda: TaskBalancing(UW(), tasks),
        "MetaWeighting": lambda: TaskBalancing(MetaWeighting(), tasks, held_out=held_out),
        "MGDA": lambda: TaskBalancing(MGDA(), tasks),
    }


def race(work: Workload, contestants: Mapping[str, Balancing]) -> dict[str, list[float]]:
    """Return CPU seconds of every step but the first."""
    fits = {name: SteppedFit(partial(work.fit, new())) for name, new in contestants.items()}
    for fit in fits.values():
        fit.start()
    costs = take_turns({name: fit.step for name, fit in fits.items()}, len(work.batches) - 1)
    for fit in fits.values():
        fit.finish()
    return costs


def by_turns(steps: Sequence[float]) -> list[float]:
    """Return the mean of each turn's steps, the median standing for all but the last: only there lies what is rare."""
    turns = [steps[start : start + EVERY] for start in range(0, len(steps), EVERY)]
    return [((EVERY - 1) * statistics.median(turn[:-1]) + turn[-1]) / EVERY for turn in turns]


def share_of_records(work: Workload, max_overhead: float) -> tuple[float, int]:
    """Return the share of the training time that CoBa's records take under a budget, and their distance in steps."""
    timer = LightningClock()
    balancing = ConvergenceBalancer(
        work.tasks, held_out=work.held_out, baseline="first_record", max_overhead=max_overhead
    )
    work.fit(balancing, timer, validate=False)
    records, interval = balancing.history["step"], balancing.interval
    assert interval is not None
    if len(records) < 2:
        raise SystemExit(f"Records are {interval} steps apart: give more than {len(work.batches)} --tiny-steps.")
    # The clock is listed first: a record at the end of a step is part of the next one.
    costs = [after - before for before, after in pairwise([0.0, *timer.clock.marks])]
    plain = statistics.median(cost for step, cost in enumerate(costs) if step not in records and step > records[0])
    added = [costs[step] - plain for step in records[:-1]]
    return statistics.median(added) / (interval * plain), interval


def main() -> int:
    """Run the races."""
    parser = arguments(__doc__, "methods", repetitions=3)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tasks", type=int, default=5, help="tasks, and rows of a batch: one each")
    parser.add_argument("--length", type=int, default=51, help="tokens of a row; five have the tokens of 2 x 128")
    parser.add_argument("--completion", type=float, default=0.5, help="share of completion tokens")
    parser.add_argument("--held-out", type=int, default=8, help="held-out rows of each task")
    parser.add_argument("--max-overhead", type=float, default=0.03, help="budget of CoBa on a tiny model")
    parser.add_argument("--tiny-steps", type=int, default=400, help="its steps")
    given = parser.parse_args()
    one_quiet_thread()
    torch.manual_seed(given.seed)
    tiny = Workload(tiny_llama(given.seed, hidden=64), byte_tokenizer(), given.tiny_steps, given)
    shares, intervals = zip(
        *(share_of_records(tiny, given.max_overhead) for _ in range(given.repetitions)), strict=True
    )
    model, tokenizer = load_language_model(given.model)
    work = Workload(model, tokenizer, 1 + EVERY * given.repetitions, given)
    few = Workload(model, tokenizer, 1 + given.repetitions, given)
    targeted = race(work, {name: new for name, new in balancings(work).items() if name in {PEER, *TARGETS}})
    others = race(few, {name: new for name, new in balancings(few).items() if name not in TARGETS})
    checks = [
        Check(f"{name} / {PEER}", by_turns(ratios(targeted, name, PEER)), "<=", target)
        for name, target in TARGETS.items()
    ]
    budget = given.max_overhead
    checks.append(Check(f"max_overhead={budget}, share of records", shares, "<=", SLACK * budget, ""))
    reported = {name: round(statistics.median(ratios(others, name, PEER)), 3) for name in others if name != PEER}
    costs = {"with a target": targeted, "without": others}
    return report("methods", given, checks, costs, relative_cost=reported, record_intervals=intervals)


if __name__ == "__main__":
    raise SystemExit(main())
