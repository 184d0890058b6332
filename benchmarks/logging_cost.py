"""What it costs to log the train loss of 20 tasks: our module against plain Lightning, and against a log call a task.

All three train on the same per-task losses of almost no work, so that the loop around them is what takes the time.
"""

import tempfile
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from clocks import LightningClock
from measure import Check, arguments, one_quiet_thread, report, take_turns
from synthetic import byte_tokenizer, tiny_llama
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_coba import MultitaskLM, TaskLosses
from lightning_coba.functional import task_means
from lightning_coba.log_keys import TRAIN_LOSS, task_key
from lightning_coba.loggers import MetricsCSV

VOCABULARY = 32


class Ours(MultitaskLM):
    """Our module, with losses that cost next to nothing."""

    def task_losses(self, batch: Mapping[str, Tensor]) -> TaskLosses:
        """Return one loss per task of a few parameters."""
        return TaskLosses(self.model.get_output_embeddings().weight.sum() * batch["shares"], batch["counts"])


class WithoutLogs(Ours):
    """The same losses in plain Lightning: a training step, and nothing around it."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Do nothing."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Do nothing."""

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean of the tasks' losses."""
        return self.combined(batch)[0]

    def combined(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, TaskLosses]:
        """Return the loss and what it is made of."""
        losses = self.task_losses(batch)
        return self.task_weights.combine(losses), losses


class LogEachTask(WithoutLogs):
    """The same with one `self.log` a task, as the documentation of Lightning shows it."""

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Log every task's mean."""
        loss, losses = self.combined(batch)
        for task, mean in zip(self.task_weights.tasks, task_means(losses).detach(), strict=True):
            self.log(task_key(TRAIN_LOSS, task), mean, batch_size=1)
        return loss


def main() -> int:
    """Run the race."""
    parser = arguments(__doc__, "logging_cost", repetitions=25)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=150, help="steps of a turn")
    parser.add_argument("--log-every", type=int, default=50, help="Trainer.log_every_n_steps (its default)")
    given = parser.parse_args()
    one_quiet_thread()
    torch.manual_seed(given.seed)
    tasks = [f"task{i}" for i in range(given.tasks)]
    batches = [
        {"shares": torch.rand(given.tasks), "counts": torch.randint(1, 9, (given.tasks,))}
        for _ in range(given.steps + 1)
    ]
    loader: DataLoader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list is map-style
    model, tokenizer = tiny_llama(given.seed, VOCABULARY, hidden=8, layers=1), byte_tokenizer()

    def turn(kind: type[MultitaskLM], folder: str) -> float:
        timer = LightningClock()
        L.Trainer(
            accelerator="cpu",
            max_steps=len(batches),
            log_every_n_steps=given.log_every,
            logger=False if kind is WithoutLogs else MetricsCSV(folder),
            callbacks=[timer],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        ).fit(kind(model, tokenizer, tasks=tasks), loader)
        return timer.clock.seconds_per_step

    with tempfile.TemporaryDirectory() as folder:
        costs = take_turns(
            {
                "ours": lambda: turn(Ours, f"{folder}/ours"),
                "plain Lightning": lambda: turn(WithoutLogs, folder),
                "a log call a task": lambda: turn(LogEachTask, f"{folder}/each"),
            },
            given.repetitions,
        )
    added = {
        name: [1e3 * (a - b) for a, b in zip(costs[name], costs["plain Lightning"], strict=True)]
        for name in ("ours", "a log call a task")
    }
    checks = [Check(f"{given.tasks} tasks logged, added to a step", added["ours"], "<=", 0.1, "ms")]
    return report("logging_cost", given, checks, costs, added_ms=added)


if __name__ == "__main__":
    raise SystemExit(main())
