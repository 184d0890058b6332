"""How long after its start a run reads its first batch, beyond loading the model; tokens are cached from a run before.

Every turn is a fresh process, so imports count on both sides. The pass over validation data before training is left
out: it is not part of starting.
"""

# What a process imports is part of what is measured, so that each contestant imports for itself.
import argparse
import contextlib
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import DATA, MODEL, Check, arguments, one_quiet_thread, report, take_turns


def load_model(given: argparse.Namespace) -> float:
    """Return the CPU time of a process that loads the model."""
    from lightning_coba.models import load_language_model

    one_quiet_thread()
    load_language_model(given.model)
    return time.process_time()


def first_batch(given: argparse.Namespace) -> float:
    """Return the CPU time of a process up to its first training batch."""
    import lightning as L
    from peft import LoraConfig

    from lightning_coba import ConvergenceBalancer, MultitaskDataModule, MultitaskLM

    one_quiet_thread()
    reached: list[float] = []

    class Stop(Exception):  # noqa: N818 - no error
        pass

    class AtFirstBatch(L.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            reached.append(time.process_time())
            raise Stop

    module = MultitaskLM(given.model, peft=LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"))
    data = MultitaskDataModule(root=given.data, batch_size=given.batch_size)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        num_sanity_val_steps=0,
        callbacks=[ConvergenceBalancer(), AtFirstBatch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with contextlib.suppress(Stop):
        trainer.fit(module, data)
    return reached[0]


def main() -> int:
    """Start, several times."""
    parser = arguments(__doc__, "first_batch", repetitions=5)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with one folder per task")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--batch-size", type=int, default=16)
    given = parser.parse_args()
    one_quiet_thread()

    def fresh(function: Callable[[argparse.Namespace], float]) -> float:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(function, (given,))

    turns = {"first_batch": lambda: fresh(first_batch), "load_model": lambda: fresh(load_model)}
    turns["first_batch"]()  # fills the caches
    costs = take_turns(turns, given.repetitions)
    beyond = [a - b for a, b in zip(costs["first_batch"], costs["load_model"], strict=True)]
    return report("first_batch", given, [Check("beyond loading the model", beyond, "<=", 2.0, "s")], costs)


if __name__ == "__main__":
    raise SystemExit(main())
