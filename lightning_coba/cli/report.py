"""``coba-report``: compare the methods of finished runs, and show what became of a single one, each as one page."""

import argparse
from collections.abc import Sequence

from lightning_coba.cli.command_line import command_parser, help_texts, plain_errors


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = command_parser("coba-report", *help_texts("coba-report"))
    made.add_argument("dirs", metavar="DIR", nargs="+", help="runs/, multirun/<name>/, or the folder of one run")
    made.add_argument("--out", default="report", metavar="DIR", help="folder to write to (default: %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a report about the runs below the folders of the command line."""
    given = (command := parser()).parse_args(arguments)
    with plain_errors(command):
        # --help is answered without these.
        from rich.console import Console

        from lightning_coba.reports.comparison.report import write_comparison_report
        from lightning_coba.reports.run_page.writing import write_run_pages
        from lightning_coba.runs.files import ReportFiles

        report = write_comparison_report(given.dirs, given.out)
        pages = write_run_pages(given.dirs)
    console = Console()
    console.print(report)
    page = ReportFiles(report.folder).page
    console.print(f"\n{report.num_runs} runs read. Open {page}", soft_wrap=True, highlight=False)
    for page in pages:
        console.print(f"About the run itself: {page}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
