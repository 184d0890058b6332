"""Which share of the computed tokens is no padding, over an epoch: grouped, packed, and random to compare."""

from pathlib import Path

from measure import DATA, MODEL, Check, arguments, one_quiet_thread, report

from lightning_coba import MultitaskDataModule
from lightning_coba.models import load_language_model

TARGETS = {"grouped": 0.95, "packed": 0.99}


def useful_share(data: MultitaskDataModule) -> float:
    """Return the share of tokens that are no padding in the batches of an epoch."""
    data.setup("fit")
    lengths = [rows.lengths for rows in data.corpus.tokens["train"]]
    useful = computed = 0
    for batch in data.train_dataloader():
        rows = zip(batch["row_tasks"].tolist(), batch["row_ids"].tolist(), strict=True)
        useful += sum(int(lengths[task][row]) for task, row in rows)
        computed += batch["input_ids"].numel()
    return useful / computed


def main() -> int:
    """Collate an epoch of each kind."""
    parser = arguments(__doc__, "useful_tokens", repetitions=1)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with one folder per task")
    parser.add_argument("--model", default=MODEL, help="whose tokenizer counts")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=1024)
    given = parser.parse_args()
    one_quiet_thread()
    _, tokenizer = load_language_model(given.model)

    def shares(batching: str) -> list[float]:
        """Return the share of each repetition, with a seed of its own."""
        settings = {"batch_size": given.batch_size, "max_length": given.max_length, "batching": batching}
        seeds = range(given.seed, given.seed + given.repetitions)
        return [
            useful_share(MultitaskDataModule(root=given.data, tokenizer=tokenizer, seed=seed, **settings))
            for seed in seeds
        ]

    costs = {batching: shares(batching) for batching in ("random", *TARGETS)}
    checks = [Check(f"useful tokens, {name}", costs[name], ">=", target, "") for name, target in TARGETS.items()]
    return report("useful_tokens", given, checks, costs)


if __name__ == "__main__":
    raise SystemExit(main())
