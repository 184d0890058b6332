"""Run the tests of answers that are programs: several at a time, each shut in."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.progress import track

from lightning_coba.errors import UserError
from lightning_coba.evaluation.programs import Program, program_of
from lightning_coba.evaluation.rows import EvaluationRow
from lightning_coba.evaluation.sandbox import run_shut_in, why_not_isolated


def isolation(allow_network: bool) -> bool:
    """Return whether programs are shut in; refuse where they cannot be and nobody allowed it.

    Raises:
        ValueError: they cannot be shut in, and ``allow_network`` is False.
    """
    reason = why_not_isolated()
    if reason and not allow_network:
        raise UserError(
            f"`evaluate.run_code` runs programs that nobody has read, and this machine cannot shut them in: {reason} "
            "Or do it on another machine, or in a container or virtual machine made for this: there, "
            "allow_network=True (--allow-network) runs them with limits of time and memory alone."
        )
    return reason is None


def passes(program: Program, isolate: bool = True) -> bool:
    """Run a program, and return whether it came to its end by itself with all tests passed."""
    ended = run_shut_in(program.command, program.files, program.limits, isolate)
    return ended.code == 0 and program.proof in ended.output.splitlines()


def run_tests(
    rows: Sequence[EvaluationRow],
    answers: Sequence[Sequence[str]],
    isolate: bool,
    progress: bool = False,
) -> list[list[bool]]:
    """Return for each row which of its answers pass; as many are run at a time as there are processors.

    Args:
        rows: rows whose tests can be run; see `why_not_run`.
        answers: the answers to each.
        isolate: see `isolation`.
        progress: whether a bar is shown.
    """

    def of_row(row: EvaluationRow, mine: Sequence[str]) -> list[bool]:
        return [passes(program_of(row, answer), isolate) for answer in mine]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        verdicts = pool.map(of_row, rows, answers)
        return list(track(verdicts, "Tests", total=len(rows), transient=True, disable=not progress))
