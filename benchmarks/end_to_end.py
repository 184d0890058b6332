"""Useful tokens a CPU second of a run on real data: ours at its best for this processor, against a plain loop.

Ours: batches grouped by length, the head on completion tokens only, bfloat16 where the processor multiplies it. The
plain loop: the same rows in random batches, the model's own loss, float32. Both read some batches of an epoch's plan.
"""

import itertools
from pathlib import Path

from contestants import Batch, ours, plain_loop, with_labels
from measure import DATA, MODEL, Check, arguments, one_quiet_thread, report, take_turns

from lightning_coba import MultitaskDataModule
from lightning_coba.data.planning.planner import Batching
from lightning_coba.models import load_language_model
from lightning_coba.models.precision import fastest_precision


def useful_tokens(batches: list[Batch]) -> float:
    """Return the tokens a step that are no padding, without the first step, which is not timed."""
    return sum(int(batch["attention_mask"].sum()) for batch in batches[1:]) / (len(batches) - 1)


def main() -> int:
    """Run the race."""
    parser = arguments(__doc__, "end_to_end", repetitions=3)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with one folder per task")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn, after one that is not counted")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--precision", default=fastest_precision(), help="ours")
    given = parser.parse_args()
    one_quiet_thread()
    model, tokenizer = load_language_model(given.model)
    needed = given.repetitions * (given.steps + 1)

    def plan(batching: Batching) -> tuple[list[Batch], list[str]]:
        data = MultitaskDataModule(
            root=given.data,
            tokenizer=tokenizer,
            batch_size=given.batch_size,
            max_length=given.max_length,
            batching=batching,
            seed=given.seed,
        )
        data.setup("fit")
        return list(itertools.islice(data.train_dataloader(), needed)), data.task_names

    grouped, tasks = plan("grouped")
    mixed, _ = plan("random")
    turns = {"ours": 0, "plain loop": 0}

    def next_batches(name: str, batches: list[Batch]) -> list[Batch]:
        start = turns[name] * (given.steps + 1)
        turns[name] += 1
        return batches[start : start + given.steps + 1]

    def our_turn() -> float:
        chosen = next_batches("ours", grouped)
        clock = ours(model, tokenizer, tasks, chosen, chosen[:1], len(chosen), given.precision)
        return clock.seconds_per_step / useful_tokens(chosen)

    def plain_turn() -> float:
        chosen = next_batches("plain loop", mixed)
        return plain_loop(model, [with_labels(batch) for batch in chosen]) / useful_tokens(chosen)

    costs = take_turns({"ours": our_turn, "plain loop": plain_turn}, given.repetitions)
    speed = {name: [1 / cost for cost in values] for name, values in costs.items()}
    ratio = [a / b for a, b in zip(speed["ours"], speed["plain loop"], strict=True)]
    checks = [Check("ours / plain loop, useful tokens a second", ratio, ">=", 2.8)]
    return report("end_to_end", given, checks, costs, useful_tokens_per_second=speed)


if __name__ == "__main__":
    raise SystemExit(main())
