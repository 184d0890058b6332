"""``coba-evaluate``: let the model of a run answer the test rows of each task, and measure the answers."""

import argparse
from collections.abc import Sequence

from lightning_coba.cli.command_line import (
    add_trust,
    command_parser,
    help_texts,
    names,
    plain_errors,
    quiet_dependencies,
)


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = command_parser("coba-evaluate", *help_texts("coba-evaluate"))
    made.add_argument("run", metavar="RUN", help="the folder of a run, such as runs/demo-coba-seed1")
    _add_what_is_answered(made.add_argument_group("what is answered"))
    _add_who_answers(made.add_argument_group("who answers"))
    _add_how_it_answers(made.add_argument_group("how it answers"))
    _add_what_is_measured(made.add_argument_group("what is measured"))
    made.add_argument("--out", metavar="DIR", help="folder to write to (default: RUN/evaluation)")
    made.add_argument("--fresh", action="store_true", help="answer again what has been answered")
    add_trust(made)
    return made


def _add_what_is_answered(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--split", default="test", choices=("test", "validation"), help="(default: %(default)s)")
    group.add_argument(
        "--rows", type=int, metavar="N", help="rows of each task, always the same (default: those that the run tests)"
    )
    group.add_argument("--tasks", type=names, metavar="A,B", help="only these tasks (default: all)")
    group.add_argument("--data", metavar="DIR", help="where the data is now, if it has moved")


def _add_who_answers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--checkpoint",
        default="final",
        choices=("final", "best", "last", "base"),
        help="final: what the run ended with, its best validation pass; best, last: of an unfinished run; "
        "base: untrained (default: %(default)s)",
    )
    group.add_argument("--base", action="store_true", help="the model before training too, and the paired difference")
    group.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 (default: %(default)s)"
    )
    group.add_argument("--dtype", metavar="NAME", help="of the weights, such as bfloat16 (default: as trained)")


def _add_how_it_answers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--batch-tokens", type=int, default=8192, metavar="N", help="of a batch; less needs less memory (%(default)s)"
    )
    group.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="of an answer (default: 1.5 times the longest completion of the task in train and validation)",
    )
    group.add_argument("--samples", type=int, default=1, metavar="N", help="answers to each row (default: %(default)s)")
    group.add_argument(
        "--temperature", type=float, metavar="T", help="draw tokens (default: 0, the likeliest; 0.8 with --samples)"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: %(default)s)")


def _add_what_is_measured(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--metric",
        dest="metrics",
        action="append",
        default=[],
        type=_metric,
        metavar="TASK=A,B",
        help="metrics of a task, instead of those chosen; once for each task. accuracy, macro_f1, exact_match, "
        "answer_match, token_f1, numeric_match, chrf, bleu, rouge_l",
    )
    group.add_argument("--run-code", action="store_true", help="run the tests of answers that are programs")
    group.add_argument("--k", type=int, default=1, help="of pass@k; needs as many --samples (default: %(default)s)")
    group.add_argument(
        "--allow-network",
        action="store_true",
        help="run them even where this machine cannot shut them in: only in a container or virtual machine for this",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate the run of the command line."""
    given = vars((command := parser()).parse_args(arguments))

    del given["print_completion"]
    samples, temperature, seed = (given.pop(name) for name in ("samples", "temperature", "seed"))
    if temperature is None:
        temperature = 0.8 if samples > 1 else 0.0
    trust = {name: given.pop(name) for name in ("trust_code", "trust_remote_code")}
    with plain_errors(command):
        # --help is answered without these.
        from rich.console import Console

        from lightning_coba.evaluation import evaluate
        from lightning_coba.models.generation import Decoding
        from lightning_coba.runs.trained_run import TrainedRun

        quiet_dependencies()
        given["run"] = TrainedRun.open(given["run"], **trust)
        # The other arguments have the names that they have on the command line.
        given["metrics"] = dict(given["metrics"])
        evaluation = evaluate(**given, decoding=Decoding(temperature, samples, seed), progress=True)
    console = Console()
    console.print(evaluation.table())
    for note in evaluation.notes:
        console.print(f"{note}.", highlight=False)
    console.print(
        f"\nWritten to {evaluation.settings['folder']}. Look at samples.html.", highlight=False, soft_wrap=True
    )


def _metric(text: str) -> tuple[str, list[str]]:
    task, equals, listed = text.partition("=")
    if not (task and equals and listed):
        raise argparse.ArgumentTypeError(f"must be TASK=METRIC or TASK=METRIC,METRIC; got {text!r}")
    return task, names(listed)


if __name__ == "__main__":
    main()
