"""``coba-data``: look at your own data before training on it, and write the configuration that trains on it."""

import argparse
import itertools
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning_coba.cli.command_line import command_parser, plain_errors
from lightning_coba.cli.templates import unescaped

DESCRIPTION = """\
Look at your own data before you train on it, and write the configuration that trains on it.

  coba-data check my_tasks                    what would go wrong, what a step will look like
  coba-data init my_tasks                     write experiment/my_tasks.yaml, with comments, to edit
  coba-train --config-dir . experiment=my_tasks
"""
EPILOG = """\
`coba-data check --help` and `coba-data init --help` say more. Both read the data the way coba-train does.
"""
CHECK = """\
Read your data the way training will, and say what would stop it or do it harm, with file and line.

  coba-data check my_tasks
  coba-data check experiment/my_tasks.yaml
  coba-data check my_tasks --prompt '{question}\\n' --completion answer --max-length 512
  coba-data check all.jsonl --tokenizer HuggingFaceTB/SmolLM2-360M --batch-size 8 --mixing temperature
"""
CHECK_EPILOG = """\
DIR is whatever data.root of coba-train may be: a folder with a sub-folder or a file a task, or one file with a column
`task`. JSONL, CSV, TSV, Parquet. The options are those of coba-train's data group, with its defaults: what a finding
calls data.prompt is --prompt here. Or it is a file of `coba-data init`, which then says how the data is read: of the
options, --out and --tokenizer alone count.

Written: OUT/data.html (one file, to send around) and OUT/data.png. Nothing of yours is changed. What was read and
tokenised is kept for the training. The exit code is 0 if training would run, 1 if there are errors, 2 for wrong usage.
"""
#: Arguments of `MultitaskDataModule` that are options of ``check``.
DATA_OPTIONS = (
    "prompt", "completion", "messages", "chat", "max_length", "overlong", "overlap", "batch_size", "batching", "mixing",
    "validation_rows",
)  # fmt: skip
INIT = """\
Look at your data and write a configuration to train on it, with a comment at each choice.

  coba-data init my_tasks
  coba-data init my_tasks --prompt '{en}\\n' --completion de
  coba-data init all.jsonl --model HuggingFaceTB/SmolLM2-360M --out conf/experiment/first.yaml
"""
INIT_EPILOG = """\
Columns are told by their names (prompt/completion, question/answer, instruction/input/output, messages and so on), in
each task by itself; where that is not sure, the error lists them and what to type. What is typed counts for the tasks
that have these columns, and the others are told by their names as before. For tasks with yet other columns, repeat it:

  coba-data init my_tasks --prompt '{en}\\n' --completion de --prompt '{symbol}\\n' --completion name

Written: experiment/<name of DIR>.yaml, or --out FILE, which must be in a folder named `experiment`. It is used with

  coba-train --config-dir FOLDER_OF_experiment experiment=NAME

and any key=value after that still wins.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    made = command_parser("coba-data", DESCRIPTION, EPILOG)
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    as_written = partial(commands.add_parser, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "say what would go wrong with the data, and what a step will look like"
    _add_check(as_written("check", help=about, description=CHECK, epilog=CHECK_EPILOG))
    about = "write a configuration to train on the data"
    _add_init(as_written("init", help=about, description=INIT, epilog=INIT_EPILOG))
    return made


def _add_init(made: argparse.ArgumentParser) -> None:
    made.set_defaults(run=init)
    made.add_argument("dir", metavar="DIR", help="a folder with a sub-folder or a file per task, or one file")
    made.add_argument("--out", metavar="FILE", help="file to write (default: experiment/<name of DIR>.yaml)")
    made.add_argument("--force", action="store_true", help="replace a file that is there")
    made.add_argument("--model", metavar="MODEL", help="hub id, folder or .gguf (default: that of model=smollm2)")
    for name, what in (
        ("prompt", "column or template, instead of a guess, of the tasks that have it"),
        ("completion", "the same of what is learned"),
        ("messages", "column of conversations, of the tasks that have it"),
    ):
        made.add_argument(f"--{name}", metavar="COLUMN", action="append", default=[], help=what)


def _add_check(made: argparse.ArgumentParser) -> None:
    made.add_argument("dir", metavar="DIR", help="a folder with a sub-folder or a file per task, or one file; or .yaml")
    made.add_argument("--out", default="data_report", metavar="DIR", help="folder to write to (default: %(default)s)")
    made.add_argument("--tokenizer", metavar="MODEL", help="hub id, folder or .gguf (default: that of model=smollm2)")
    reading = made.add_argument_group("how a row is read").add_argument
    reading("--prompt", metavar="COLUMN", help="or a template such as '{question}\\n' (default: %(default)s)")
    reading("--completion", metavar="COLUMN", help="the same of what is learned (default: %(default)s)")
    reading("--messages", metavar="COLUMN", help="column of conversations (default: %(default)s)")
    reading("--chat", action=argparse.BooleanOptionalAction, help="render all rows with the chat template, or none")
    reading("--max-length", type=int, metavar="N", help="tokens per row (default: %(default)s)")
    reading("--overlong", choices=("error", "drop"), help="completions that do not fit (default: %(default)s)")
    reading("--overlap", choices=("drop", "error"), help="a prompt in two splits (default: %(default)s)")
    mixed = made.add_argument_group("how a step is made").add_argument
    mixed("--batch-size", type=int, metavar="N", help="rows per step (default: %(default)s)")
    mixed("--batching", choices=("grouped", "packed", "random"), help="(default: %(default)s)")
    mixed(
        "--mixing", choices=("proportional", "temperature", "uniform", "round_robin", "stratified"),
        help="how the tasks share an epoch (default: %(default)s)",
    )  # fmt: skip
    mixed("--validation-rows", type=int, metavar="N", help="rows per task (default: %(default)s)")
    run = made.add_argument_group("how long the run is").add_argument
    run("--max-epochs", type=int, default=3, metavar="N", help="epochs (default: %(default)s)")
    run("--max-steps", type=int, default=-1, metavar="N", help="optimizer steps; -1 = epochs decide")
    run(
        "--val-check-interval", type=_interval, default=0.1, metavar="X",
        help="share of an epoch, or number of steps, between validation passes (default: %(default)s)",
    )  # fmt: skip
    defaults = _settings_of("data", "files")
    made.set_defaults(run=check, **{name: defaults[name] for name in DATA_OPTIONS})


def _interval(text: str) -> float | int:
    return float(text) if "." in text else int(text)


def _settings_of(group: str, option: str) -> dict[str, Any]:
    """Return what a file of ``conf/`` says; a tenth of a second faster than Hydra."""
    import yaml

    from lightning_coba.cli.config_folder import config_folder

    return yaml.safe_load((Path(config_folder()) / f"{group}/{option}.yaml").read_text(encoding="utf-8"))


def default_model() -> str:
    """Return the model of ``model=smollm2``."""
    return _settings_of("model", "smollm2")["model"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``coba-data``."""
    given = (command := parser()).parse_args(arguments)
    with plain_errors(command):
        well = given.run(given)
    if not well:
        sys.exit(1)


def check(given: argparse.Namespace) -> bool:
    """Inspect the data, print and write what was found, and return whether training would run."""
    from rich.console import Console

    from lightning_coba.inspection import inspect_data
    from lightning_coba.inspection.model_context import context_of
    from lightning_coba.models.tokenizer import load_tokenizer
    from lightning_coba.reports.data_report.writing import write_data_report

    data, length, model = _of_experiment(Path(given.dir)) if given.dir.endswith(".yaml") else _of_options(given)
    model = given.tokenizer or model
    data.tokenizer = load_tokenizer(model)
    found = inspect_data(data, length, context_of(data.tokenizer))
    facts = (
        f"tokenizer {model} · max_length {data.max_length} · batch_size {data.batch_size} · {data.mixing.rule} mixing"
    )
    report = write_data_report(found, given.out, given.dir, data.max_length, facts)
    console = Console()
    console.print(report)
    if not given.dir.endswith(".yaml") and any("there is no column" in finding.what for finding in found.findings):
        command = f"coba-data init {shlex.quote(given.dir)}"
        hint = f"\nName the columns with --prompt and --completion, or let {command} find them."
        console.print(hint, soft_wrap=True, highlight=False, markup=False)
    console.print(f"\nOpen {report.folder}/data.html", soft_wrap=True, highlight=False)
    return not found.stops_training


def _of_options(given: argparse.Namespace) -> tuple[Any, Any, str]:
    from lightning_coba.data import MultitaskDataModule
    from lightning_coba.inspection import RunLength

    options = {name: getattr(given, name) for name in DATA_OPTIONS}
    options |= {name: unescaped(options[name]) for name in ("prompt", "completion")}
    length = RunLength(given.max_epochs, given.max_steps, given.val_check_interval)
    return MultitaskDataModule(root=given.dir, **options), length, default_model()


def _of_experiment(file: Path) -> tuple[Any, Any, str]:
    from hydra.utils import instantiate

    from lightning_coba.cli.experiment_file import composed
    from lightning_coba.inspection import RunLength

    config = composed(file)
    trainer = {name: config.trainer[name] for name in RunLength.__dataclass_fields__ if name in config.trainer}
    return instantiate(config.data, _convert_="all"), RunLength(**trainer), str(config.model.model)


def init(given: argparse.Namespace) -> bool:
    """Write a configuration, and print what to type next."""
    from rich.console import Console

    from lightning_coba.data import tasks_at
    from lightning_coba.inspection.column_guess import rules_of
    from lightning_coba.inspection.model_context import context_of
    from lightning_coba.inspection.run_draft import draft_run, draft_yaml, write_draft
    from lightning_coba.models.tokenizer import load_tokenizer

    tasks = tasks_at(given.dir)
    columns = rules_of(tasks, _typed_rules(given))
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(given.dir).resolve().name.partition(".")[0])
    out = Path(given.out or Path("experiment") / f"{name}.yaml")
    config_dir = str(out.parent.parent)
    tokenizer = load_tokenizer(given.model or default_model())
    try:
        draft = draft_run(tasks, columns, tokenizer, context_of(tokenizer))
    except ValueError as error:
        raise ValueError(f"{error} {_all_bad_rows(tasks, columns)}") from error
    text = draft_yaml(draft, given.dir, out.stem, config_dir, given.model)
    write_draft(out, text, given.force)
    console = Console(highlight=False, soft_wrap=True)
    console.print(text, markup=False)
    console.print(f"Written to {out}. Read it, edit it, and then:\n", markup=False)
    train = f"coba-train --config-dir {shlex.quote(config_dir)} experiment={out.stem}"
    for line in (f"coba-data check {shlex.quote(str(out))}", train, f"{train} balancer=uniform", "coba-report runs"):
        console.print(f"  {line}", markup=False)
    return True


def _all_bad_rows(tasks: Sequence[Any], columns: Mapping[str, Any]) -> str:
    from lightning_coba.data.reading.row_cache import readable_rows
    from lightning_coba.inspection.findings import listed

    read = [readable_rows(replace(task, **columns[task.name].rules)) for task in tasks]
    return f"All that cannot be used: {listed((problem.origin for _, problems in read for problem in problems), 20)}."


def _typed_rules(given: argparse.Namespace) -> list[dict[str, str]]:
    """Return the column rules of the command line, those of one task together."""
    prompts, completions = given.prompt, given.completion
    if prompts and completions and len(prompts) != len(completions):
        raise ValueError(
            f"--prompt and --completion must go in pairs; got {len(prompts)} and {len(completions)}. Type both for "
            "each kind of task."
        )
    pairs = [
        {name: unescaped(rule) for name, rule in (("prompt", prompt), ("completion", completion)) if rule}
        for prompt, completion in itertools.zip_longest(prompts, completions)
    ]
    return [*filter(None, pairs), *({"messages": column} for column in given.messages)]


if __name__ == "__main__":
    main()
