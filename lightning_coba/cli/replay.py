"""``coba-replay``: what a balancer would have done in a past run, from its validation losses, without training."""

import argparse
from collections.abc import Sequence

from lightning_coba.cli.command_line import command_parser, help_texts, names, plain_errors


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = command_parser("coba-replay", *help_texts("coba-replay"))
    made.add_argument("path", metavar="PATH", help="run folder, log folder, or table (CSV, TSV, JSON, JSONL, Parquet)")
    reading = made.add_argument_group("what to read")
    reading.add_argument(
        "--tasks", type=names, metavar="A,B", help="tasks, or whole columns (default: all held-out losses)"
    )
    reading.add_argument("--pattern", metavar="NAME", help="how losses are called, such as 'val_loss/{task}'")
    reading.add_argument("--run", metavar="NAME", help="which run, or how its name begins, where there are several")
    reading.add_argument(
        "--initial", metavar="A=V,B=V", help="losses before training, V(0) (default: measured, else the first record)"
    )
    trying = made.add_argument_group("what to try")
    trying.add_argument(
        "--balancer", action="append", default=[], metavar="NAME[:FIELD=VALUE,...]", help="a method; may be repeated"
    )
    trying.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=V,V,...",
        help="values of a field; all combinations are tried",
    )
    made.add_argument("--out", default="replay", metavar="DIR", help="folder to write to (default: %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay balancers on the losses that the command line names."""
    given = (command := parser()).parse_args(arguments)

    # --help is answered without these.
    from rich.console import Console

    console = Console()
    with plain_errors(command):
        from lightning_coba.reports.past_runs.reading import read_losses

        table = read_losses(given.path, given.tasks, given.pattern, given.run)
        for note in table.notes:
            console.print(note, style="bright_black", soft_wrap=True, highlight=False, markup=False)
        with console.status("Replaying ..."):
            from lightning_coba.reports.replay.grid import default_settings, parse_settings
            from lightning_coba.reports.replay.report import write_replay_report

            if given.initial:
                table = table.with_initial(given.initial)
            asked = given.balancer or given.set
            settings = (
                parse_settings(given.balancer, given.set)
                if asked
                else default_settings(table.balancer, table.num_records)
            )
            report = write_replay_report(table, settings, given.out)
    console.print(report)
    console.print(f"\nOpen {report.folder}/replay.html", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
