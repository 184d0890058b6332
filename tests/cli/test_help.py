"""What every command says of itself: examples that work, quickly, and completion for the shell."""

import configparser
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
#: Command -> its module, but for `coba-train`, which is Hydra's.
COMMANDS = {
    name: f"lightning_coba.cli.{name.removeprefix('coba-')}"
    for name in ("coba-data", "coba-evaluate", "coba-export", "coba-replay", "coba-report")
}
every_command = pytest.mark.parametrize("name", COMMANDS)


def parser_of(name):
    return import_module(COMMANDS[name]).parser()


def parsers_of(name):
    """The parser of a command and those of its sub-commands."""
    made = parser_of(name)
    below = [action.choices for action in made._actions if isinstance(action.choices, dict)]
    return [made, *(parser for choices in below for parser in choices.values())]


def examples(text):
    """The lines of a text to copy: indented, and beginning with one of our commands."""
    found = [line.strip() for line in text.splitlines() if re.match(r" +coba-\w+", line)]
    # What explains an example stands two spaces or more behind it.
    return [re.split(r"  +", line)[0] for line in found]


def test_these_are_all_commands():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    declared = re.findall(
        r"^([\w-]+) = ([\w.]+):main$", config["options.entry_points"]["console_scripts"], re.MULTILINE
    )
    assert dict(declared) == COMMANDS | {"coba-train": "lightning_coba.cli.train"}


@every_command
def test_help_has_examples_that_parse(name):
    for made in parsers_of(name):
        own = [line for line in examples(made.format_help()) if line.startswith(made.prog.split()[0])]
        assert own, f"{made.prog} --help shows nothing to copy"
        for line in own:
            words = shlex.split(line, comments=True)
            try:
                parsers_of(name)[0].parse_args(words[1:])
            except SystemExit:
                pytest.fail(f"{made.prog} --help: {line}")


@every_command
def test_every_argument_is_explained_and_what_is_written_is_said(name):
    for made in parsers_of(name):
        for action in made._actions:
            assert action.help or action.choices, f"{made.prog}: {action.dest}"
    assert re.search("[Ww]rit", " ".join(parser.format_help() for parser in parsers_of(name)))


def test_the_lines_of_coba_train_name_the_other_commands():
    template = yaml.safe_load((ROOT / "conf" / "train.yaml").read_text())["hydra"]["help"]["template"]
    assert {line.split()[0] for line in examples(template)} == {"coba-train", *COMMANDS}
    for line in examples(template):
        name, *words = shlex.split(line)
        if name in COMMANDS:
            parser_of(name).parse_args(words)


def python(*arguments, **options):
    line = [sys.executable, *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=True, **options).stdout


def test_help_loads_nothing_heavy():
    code = (
        "import sys, importlib\n"
        f"for name in {list(COMMANDS.values())}:\n"
        "    importlib.import_module(name).parser().format_help()\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    heavy = {"torch", "lightning", "transformers", "peft", "datasets", "matplotlib", "pandas", "hydra", "numpy"}
    assert heavy & set(python("-c", code).split()) == set()


def test_help_of_coba_train_loads_neither_torch_nor_lightning():
    code = "import sys, lightning_coba.cli.train; print(*{name.partition('.')[0] for name in sys.modules})"
    assert {"torch", "lightning", "transformers", "peft", "matplotlib"} & set(python("-c", code).split()) == set()


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash")
def test_a_real_bash_completes_every_command(tmp_path):
    for name, module in (COMMANDS | {"coba-train": "lightning_coba.cli.train"}).items():
        (tmp_path / name).write_text(f"#!{sys.executable}\nfrom {module} import main\nmain()\n")
        (tmp_path / name).chmod(0o755)
    scripts = [f'eval "$({name} --print-completion bash)"' for name in COMMANDS]
    scripts.append('eval "$(coba-train -sc install=bash)"')
    asked = {
        "coba-data ch": "check", "coba-evaluate --sp": "--split", "coba-export --dtype b": "bfloat16",
        "coba-replay --bal": "--balancer", "coba-report --o": "--out", "coba-train balancer=gr": "balancer=gradnorm",
    }  # fmt: skip
    complete = """
    try() {
      COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
      $(complete -p "$1" | sed 's/.*-F \\([^ ]*\\) .*/\\1/') "$1" "${@: -1}" "${COMP_WORDS[COMP_CWORD-1]}"
      echo "$*: ${COMPREPLY[*]}"
    }"""
    script = "\n".join([*scripts, complete, *(f"try {line}" for line in asked)])
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=False, env=env)
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    for line, word in asked.items():
        assert word in found.get(line, "").split(), done.stdout + done.stderr
