"""``coba-data``: look at your own data before training on it, and write the configuration that trains on it."""

import argparse
import re
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning_coba.cli.command_line import add_trust, command_parser, plain_errors, quiet_dependencies
from lightning_coba.cli.templates import unescaped
from lightning_coba.errors import UserError

DESCRIPTION = """\
Look at your own data before you train on it, and write the configuration that trains on it.

  coba-data check my_tasks                    what would go wrong, and what the run will cost
  coba-data init my_tasks                     write experiment/my_tasks.yaml, with comments, to edit
  coba-train --config-dir . experiment=my_tasks
"""
EPILOG = """\
`coba-data check --help` and `coba-data init --help` say more. Both read the data the way coba-train does.
"""
CHECK = """\
Read your data as the training will, and say what would stop or impair it, with file and line.

  coba-data check my_tasks
  coba-data check experiment/my_tasks.yaml
  coba-data check my_tasks data.prompt='{question}\\n' data.completion=answer data.max_length=512
  coba-data check all.jsonl model.model=HuggingFaceTB/SmolLM2-360M data.mixing=temperature trainer.max_steps=500
"""
CHECK_EPILOG = """\
DIR is whatever data.root of coba-train may be: a folder with a sub-folder or a file per task; one file with a column
`task`; hf:org/name or hf:org/name:configuration of the Hugging Face hub; or several of these, as '[one,two]'. Files are
JSONL, JSON arrays, CSV, TSV or Parquet. Or it is a file of `coba-data init`, which then says how the data is read.
Every KEY=VALUE is what coba-train takes: data.* for how rows are read and steps are made, model.model for the
tokenizer, trainer.* for the length of the run.

Unless there is an error, the model is loaded and trained for a few steps, in a process of its own that leaves nothing
behind: minutes, memory and the share of validation follow from them. This takes a minute or more; --no-timing skips it.

Written: OUT/data.html (one file, to send around) and OUT/data.png. Nothing of yours is changed. What was read and
tokenised is kept for the training. The exit code is 0 if training would run, 1 if there are errors, 2 for wrong usage.
"""
INIT = """\
Look at your data and write a configuration to train on it, with a comment at each choice.

  coba-data init my_tasks
  coba-data init my_tasks --columns '{en}\\n' de
  coba-data init all.jsonl --model HuggingFaceTB/SmolLM2-360M --out conf/experiment/first.yaml
  coba-data init '[hf:openai/gsm8k:main,hf:rajpurkar/squad]' --out experiment/two.yaml
"""
INIT_EPILOG = """\
DIR is what `coba-data check` takes. Columns are recognised by their names (prompt/completion, question/answer,
instruction/input/output, messages and so on), in each task by itself; where that is not sure, the error lists them and
what to type. What is typed counts for the tasks that have these columns, and the others are recognised as
before. For tasks with yet other columns, repeat it:

  coba-data init my_tasks --columns '{en}\\n' de --columns '{symbol}\\n' name

A few steps are then timed, to say how long the run will take and how much memory it will need; batches become smaller
where memory may not suffice. This takes a minute or more; --no-timing skips it.

Written: experiment/<name of DIR>.yaml, or --out FILE, which must be in a folder named `experiment`. It is used with

  coba-train --config-dir FOLDER_OF_experiment experiment=NAME

and any key=value after that still wins.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = command_parser("coba-data", DESCRIPTION, EPILOG)
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    as_written = partial(commands.add_parser, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "say what would go wrong with the data, and what the run will cost"
    _add_check(as_written("check", help=about, description=CHECK, epilog=CHECK_EPILOG))
    about = "write a configuration to train on the data"
    _add_init(as_written("init", help=about, description=INIT, epilog=INIT_EPILOG))
    return made


def _add_check(made: argparse.ArgumentParser) -> None:
    made.set_defaults(run=check)
    made.add_argument(
        "dir", metavar="DIR", help="a folder with a sub-folder or file per task, one file, hf:ID, or .yaml"
    )
    made.add_argument(
        "settings", metavar="KEY=VALUE", nargs="*", help="a setting of coba-train, such as data.chat=true"
    )
    made.add_argument("--out", default="data_report", metavar="DIR", help="folder to write to (default: %(default)s)")
    _add_timing(made)
    add_trust(made, remote=False)


def _add_timing(made: argparse.ArgumentParser) -> None:
    about = "do not load the model to time a few steps, which takes a minute or more"
    made.add_argument("--no-timing", dest="timing", action="store_false", help=about)


def _add_init(made: argparse.ArgumentParser) -> None:
    made.set_defaults(run=init)
    made.add_argument("dir", metavar="DIR", help="a folder with a sub-folder or file per task, one file, or hf:ID")
    made.add_argument("--out", metavar="FILE", help="file to write (default: experiment/<name of DIR>.yaml)")
    made.add_argument("--force", action="store_true", help="replace a file that is there")
    made.add_argument("--model", metavar="MODEL", help="hub id, folder or .gguf (default: that of model=smollm2)")
    typed = partial(made.add_argument, action="append", default=[])
    what = "columns or templates of what is read and what is learned, instead of a guess, for the tasks that have them"
    typed("--columns", metavar=("PROMPT", "COMPLETION"), nargs=2, help=what)
    typed("--messages", metavar="COLUMN", help="column of conversations, for the tasks that have it")
    _add_timing(made)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``coba-data``."""
    given, left = (command := parser()).parse_known_args(arguments)
    # argparse reads words up to the first option only; settings may stand behind it too.
    behind = [word for word in left if given.run is check and re.match(r"[\w.+~]+=", word)]
    if len(behind) < len(left):
        command.error(f"unrecognized arguments: {' '.join(word for word in left if word not in behind)}")
    if behind:
        given.settings = [*given.settings, *behind]
    quiet_dependencies()
    with plain_errors(command):
        _refuse_run(given.dir, f"{command.prog} {given.command}")
        well = given.run(given)
    if not well:
        sys.exit(1)


def _refuse_run(folder: str, command: str) -> None:
    """Say what to do with the folder of a run, which holds no data."""
    from lightning_coba.runs.files import RunFiles
    from lightning_coba.runs.trained_run import TrainedRun

    if RunFiles(Path(folder)).card.is_file():
        run = TrainedRun.open(folder)
        run.require_system(command)
        raise UserError(
            f"{folder} is the folder of a run.", f"Give the data it was trained on, its data.root: {command} DIR."
        )


def check(given: argparse.Namespace) -> bool:
    """Inspect the data, print and write what was found, and return whether training would run."""
    from rich.console import Console

    from lightning_coba.cli.composing import composed
    from lightning_coba.cli.forecasting import run_length, settings_of, timed
    from lightning_coba.inspection import inspect_data
    from lightning_coba.inspection.model_context import context_of
    from lightning_coba.models.tokenizer import load_tokenizer
    from lightning_coba.reports.data_report.writing import write_data_report
    from lightning_coba.runs.building import build

    config = composed(given.dir, given.settings, given.trust_code)
    settings = settings_of(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of is among the findings
        data = build("data", settings["data"], given.trust_code)
    data.tokenizer = load_tokenizer(config.model.model)
    found = inspect_data(data, run_length(settings), context_of(data.tokenizer))
    if given.timing and found.steps is not None and not found.stops_training:
        found = timed(found, settings, is_own=given.trust_code or not given.dir.endswith(".yaml"))
    facts = (
        f"tokenizer {config.model.model} · max_length {data.max_length} · batch_size {data.batch_size} · "
        f"{data.mixing.rule} mixing"
    )
    report = write_data_report(found, given.out, given.dir, data.max_length, facts)
    console = Console()
    console.print(report)
    if not given.dir.endswith(".yaml") and any("there is no column" in finding.what for finding in found.findings):
        command = f"coba-data init {shlex.quote(given.dir)}"
        hint = f"\nName the columns with data.prompt and data.completion, or let {command} find them."
        console.print(hint, soft_wrap=True, highlight=False, markup=False)
    console.print(f"\nOpen {report.folder}/data.html", soft_wrap=True, highlight=False)
    return not found.stops_training


def init(given: argparse.Namespace) -> bool:
    """Write a configuration, and print what to type next."""
    from rich.console import Console

    from lightning_coba.cli.composing import composed
    from lightning_coba.cli.forecasting import timed_draft
    from lightning_coba.data import tasks_at
    from lightning_coba.data.reading.root import suite_of, typed_root
    from lightning_coba.data.reading.slug import slug
    from lightning_coba.inspection.column_guess import rules_of
    from lightning_coba.inspection.model_context import context_of
    from lightning_coba.inspection.run_draft import RunDraft, draft_run, draft_yaml, write_draft
    from lightning_coba.models.precision import fastest_precision
    from lightning_coba.models.tokenizer import load_tokenizer

    root = typed_root(given.dir)
    tasks = tasks_at(root)
    pairs = [{"prompt": unescaped(prompt), "completion": unescaped(learned)} for prompt, learned in given.columns]
    columns = rules_of(tasks, [*pairs, *({"messages": column} for column in given.messages)])
    name = slug(suite_of(root).partition(".")[0])
    out = Path(given.out or Path("experiment") / f"{name}.yaml")
    config_dir = str(out.parent.parent)
    tokenizer = load_tokenizer(given.model or composed(given.dir).model.model)
    try:
        draft = draft_run(tasks, columns, tokenizer, context_of(tokenizer))
    except UserError as error:
        cure = f"{error.cure} {_all_bad_rows(tasks, columns)}"
        raise UserError(error.what, cure, where=error.where) from error

    precision = fastest_precision()

    def write(draft: RunDraft, force: bool = True) -> None:
        write_draft(out, draft_yaml(draft, root, out.stem, config_dir, given.model, precision), force)

    write(draft, given.force)
    forecast = None
    if given.timing:
        draft, forecast = timed_draft(draft, out, write)
    console = Console(highlight=False, soft_wrap=True)
    console.print(out.read_text(encoding="utf-8"), markup=False)
    for sentence in forecast.sentences() if forecast else ():
        console.print(sentence, markup=False)
    console.print(f"Written to {out}. Read it, edit it, and then:\n", markup=False)
    train = f"coba-train --config-dir {shlex.quote(config_dir)} experiment={out.stem}"
    for line in (f"coba-data check {shlex.quote(str(out))}", train, f"{train} balancer=uniform", "coba-report runs"):
        console.print(f"  {line}", markup=False)
    return True


def _all_bad_rows(tasks: Sequence[Any], columns: Mapping[str, Any]) -> str:
    from lightning_coba.data.reading.row_cache import readable_rows
    from lightning_coba.inspection.findings import listed

    read = [readable_rows(replace(task, **columns[task.name].rules)) for task in tasks]
    return f"All that cannot be used: {listed((problem.where for _, problems in read for problem in problems), 20)}."


if __name__ == "__main__":
    main()
