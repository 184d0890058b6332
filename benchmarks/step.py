"""A training step of SmolLM2 with LoRA: ours against a plain loop, transformers, trl and the released CoBa."""

import statistics
import tempfile

import torch
from contestants import huggingface, ours, plain_loop, released_loop, trl, with_labels
from measure import MODEL, Check, arguments, one_quiet_thread, ratios, report, take_turns
from synthetic import random_batch

from lightning_coba.models import load_language_model


def main() -> int:
    """Run the race."""
    parser = arguments(__doc__, "step", repetitions=5)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--steps", type=int, default=6, help="steps of a turn, after one that is not counted")
    parser.add_argument("--rows", type=int, default=2, help="rows of a batch")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--completion", type=float, default=0.5, help="share of completion tokens")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--val-batches", type=int, default=2, help="batches of a validation pass")
    given = parser.parse_args()
    one_quiet_thread()
    torch.manual_seed(given.seed)
    model, tokenizer = load_language_model(given.model)
    size = (given.rows, given.length, given.completion, given.tasks, model.config.vocab_size)
    batches = [random_batch(*size) for _ in range(given.steps + 1)]
    held_out = [random_batch(*size) for _ in range(given.val_batches)]
    labelled, held_labelled = list(map(with_labels, batches)), list(map(with_labels, held_out))
    tasks = [f"task{i}" for i in range(given.tasks)]
    passes: list[float] = []

    def our_turn() -> float:
        clock = ours(model, tokenizer, tasks, batches, held_out, val_every=len(batches) // 2)
        passes.append(clock.apart)
        return clock.seconds_per_step

    with tempfile.TemporaryDirectory() as folder:
        costs = take_turns(
            {
                "ours": our_turn,
                "plain loop": lambda: plain_loop(model, labelled),
                "transformers": lambda: huggingface(model, labelled, folder),
                "trl": lambda: trl(model, tokenizer, labelled, folder),
                "released CoBa": lambda: released_loop(model, labelled, held_labelled, given.tasks),
            },
            given.repetitions,
        )
    checks = [
        Check("plain loop / ours", ratios(costs, "plain loop", "ours"), ">=", 1.05),
        Check("trl / ours", ratios(costs, "trl", "ours"), ">=", 1.15),
        Check("released CoBa / ours", ratios(costs, "released CoBa", "ours"), ">=", 1.4),
    ]
    share = statistics.median(a / b for a, b in zip(passes, costs["ours"], strict=True))
    return report("step", given, checks, costs, validation_seconds=passes, validation_in_steps=round(share, 3))


if __name__ == "__main__":
    raise SystemExit(main())
