"""Long runs and many tasks: memory stays flat. What was measured is printed (pytest -s)."""

import csv
import gc
import json
import os
import time
from itertools import pairwise
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from foreign import Stepping, fit, held_out, train_loader, val_loader
from tiny_runs import write_rows

from lightning_coba import ConvergenceBalancer
from lightning_coba.balancers import CoBa, Observation
from lightning_coba.callbacks import BalanceCSV, LastCheckpoint, StepTimer
from lightning_coba.loggers import MetricsCSV

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")]
MB = 2**20


def resident():
    """Return the bytes of memory that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(positions, values):
    """Return the slope of the least-squares line through the last half of some points."""
    half = len(values) // 2
    return float(np.polyfit(positions[half:], values[half:], 1)[0])


def test_a_hundred_thousand_updates_of_fifty_tasks_in_flat_memory():
    num_tasks, num_records, block = 50, 100_000, 5_000
    balancer = CoBa(window_records=20, warmup_records=5)
    state = balancer.init(num_tasks)
    torch.manual_seed(0)
    losses = 1 + torch.rand(block, num_tasks, dtype=torch.float64)
    present = torch.ones(num_tasks, dtype=torch.bool)
    ends, memory, times = [], [], []
    for start in range(0, num_records, block):
        began = time.process_time()  # what others do on the machine does not count
        for i in range(block):
            record = losses[i] * (1 - (start + i) / (2 * num_records))
            state, weights = balancer.update(state, Observation(step=start + i + 1, losses=record, present=present))
        times.append((time.process_time() - began) / block * 1000)
        ends.append(start + block)
        memory.append(resident())
    shown = ", ".join(f"{ends[i]}: {times[i]:.2f}" for i in (0, len(ends) // 2, -1))
    print(f"\nms of CPU per update up to record {shown}; memory grew by {(memory[-1] - memory[0]) / MB:.1f} MB, "
          f"{slope(ends, memory):.1f} bytes a record in the last half")  # fmt: skip
    assert torch.isclose(weights.sum(), torch.tensor(1.0, dtype=torch.float64))
    # The divergence factor's history holds 9 bytes a record; nothing else grows.
    assert slope(ends, memory) < 100


class Memory(L.Callback):
    def __init__(self):
        self.steps, self.bytes = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step % 100 == 0:
            self.steps.append(trainer.global_step)
            self.bytes.append(resident())


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")
def test_five_thousand_steps_through_all_callbacks_in_flat_memory(tmp_path):
    memory, balancer = Memory(), ConvergenceBalancer(every_n_steps=1, held_out=held_out())
    files = BalanceCSV(tmp_path / "balance.csv"), LastCheckpoint(tmp_path / "last.ckpt"), StepTimer()
    options = {"max_steps": 5000, "max_epochs": -1, "check_val_every_n_epoch": None, "val_check_interval": 100}
    options["enable_checkpointing"] = True
    logger = {"logger": MetricsCSV(tmp_path), "log_every_n_steps": 5}
    fit(Stepping(), balancer, memory, *files, train=train_loader(4), val=val_loader(), **options, **logger)
    growth = slope(memory.steps, memory.bytes)
    print(f"\nmemory grew by {(memory.bytes[-1] - memory.bytes[0]) / MB:.1f} MB in {memory.steps[-1]} steps, "
          f"{growth:.0f} bytes a step in the last half; {balancer.num_records} records")  # fmt: skip
    assert balancer.num_records == 5000
    # A record of 3 tasks and 7 columns has some 200 bytes, which stay; one of the loss graphs would have thousands.
    assert growth < 1500


def test_fifty_tasks_end_to_end(here, overrides, tmp_path):
    names = [f"task_{number:02d}" for number in range(50)]
    for number, name in enumerate(names):
        for split, count, start in (("train", 6 + number % 3, 0), ("validation", 2, 300), ("test", 2, 400)):
            write_rows(tmp_path / "data" / name / f"{split}.jsonl", name, count, start)
    own = [o for o in overrides if not o.startswith(("data.", "trainer.max_epochs"))]
    data = ["data=files", f"data.root={tmp_path / 'data'}", "data.batch_size=8", "data.max_length=32"]
    began = time.perf_counter()
    here(tmp_path / "run", *own, *data, "trainer.max_epochs=1")
    print(f"\n50 tasks in {time.perf_counter() - began:.0f} s")
    card = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (card["status"], card["tasks"]) == ("finished", names)
    assert list(card["results"]["test_loss"]["values"]) == names
    with (tmp_path / "run" / "balance.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    records = [rows[i : i + 50] for i in range(0, len(rows), 50)]
    assert all([row["task"] for row in record] == names for record in records)
    sums = [sum(float(row["weight"]) for row in record) for record in records]
    assert sums == pytest.approx([1.0] * len(records))
    assert any(a[0]["weight"] != b[0]["weight"] for a, b in pairwise(records))
