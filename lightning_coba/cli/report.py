"""``coba-report``: compare the methods of finished runs, and show what became of a single one, each as one page."""

import argparse
from collections.abc import Sequence

from lightning_coba.cli.command_line import command_parser, plain_errors

DESCRIPTION = """\
Compare the methods of finished runs: which balancer had the lowest test loss, on which tasks, at what cost in time.

  coba-train -m data=files data.root=my_tasks balancer=coba,uniform seed=1,2,3
  coba-report multirun/my_tasks

Or look into one run, finished or still under way: what became of each task, and what the balancer answered.

  coba-report runs/my_tasks-coba-seed1
"""
EPILOG = """\
Each DIR is the folder of a run, or a tree that holds runs at any depth; unfinished ones are listed and left out.
Runs are compared where they differ in method and seed alone. Run balancer=uniform too: the others are measured
against it. Runs of a single task of the suite (coba-train -m experiment=single) are recognised as its baseline.

Written to --out: report.html (one file, to send around), report.md, figures/*.png, and runs.csv (one row per run and
task). Where DIR is itself the folder of a run: also DIR/report.html, the page about that run.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = command_parser("coba-report", DESCRIPTION, EPILOG)
    made.add_argument("dirs", metavar="DIR", nargs="+", help="runs/, multirun/<name>/, or the folder of one run")
    made.add_argument("--out", default="report", metavar="DIR", help="folder to write to (default: %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a report about the runs below the folders of the command line."""
    given = (command := parser()).parse_args(arguments)

    # --help is answered without these.
    from rich.console import Console

    from lightning_coba.reports.comparison.report import write_comparison_report
    from lightning_coba.reports.run_page.writing import write_run_pages
    from lightning_coba.runs.files import ReportFiles

    with plain_errors(command):
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
