"""What README and docs tell a newcomer to type works: Python blocks run, command lines are checked without training."""

import configparser
import itertools
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from lightning_coba.cli import plugins
from lightning_coba.cli.config_check import check_config
from lightning_coba.cli.config_folder import config_folder
from lightning_coba.cli.resolvers import register
from lightning_coba.cli.resolving import resolved
from lightning_coba.reports import parse_settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
every_document = pytest.mark.parametrize("name", DOCUMENTS)
FENCE = re.compile(r"^ *```(\w+)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def blocks(text, *languages):
    """Return (line number of the first line, source) of every fenced block in one of the languages."""
    found = [match for match in FENCE.finditer(text) if match[1] in languages]
    return [(text.count("\n", 0, match.start(2)) + 1, match[2]) for match in found]


def run_python(text, name="README.md"):
    """Run all Python blocks in order in one namespace, as a reader who pastes them one after the other."""
    namespace = {"__name__": "readme"}
    for line, source in blocks(text, "python"):
        # Blank lines in front make a traceback point into the document.
        exec(compile("\n" * (line - 1) + source, name, "exec"), namespace)
    return namespace


def command_lines(text):
    """Return the lines of all shell blocks, with continued ones joined."""
    sources = [source.replace("\\\n", " ") for _, source in blocks(text, "bash", "sh")]
    lines = [line.strip().removeprefix("$ ") for source in sources for line in source.splitlines()]
    return [line for line in lines if line]


def check_line(line):
    """Raise AssertionError, or what Hydra raises, where a line of a shell block would fail a reader."""
    if "pip install" in line and "GPU" not in line.partition("#")[2]:
        assert "-c constraints.txt" in line.partition("#")[0], f"installs other versions than tested: {line}"
    if line.startswith(("eval ", "autoload ")):
        check_evaluated(line)
        return
    words = [word for word in shlex.split(line, comments=True) if word != "&"]
    while words and re.match("[A-Z_]+=", words[0]):  # a variable of the environment
        del words[0]
    if not words or words[0] in ("for", "done", "wait"):
        return
    program, arguments = words[0], words[1:]
    if program == "coba-train":
        check_training(arguments)
    elif program == "make":
        check_targets(word for word in arguments if "=" not in word)
    elif program.startswith("coba-"):
        assert program in console_scripts(), f"no such command: {program}"
        check_options(program, arguments)
    else:
        assert program in ("cd", "git", "pip", "tensorboard"), f"teach tests/test_readme.py to check {line!r}"


def check_options(program, arguments):
    """Let the command's own parser read what a reader would type."""
    command = import_module(f"lightning_coba.cli.{program.removeprefix('coba-')}")
    try:
        given = command.parser().parse_args(arguments)
    except SystemExit as end:
        if end.code:
            raise AssertionError(f"{program} does not take {shlex.join(arguments)}") from end
        return  # it answers --help by itself
    if program == "coba-replay":
        parse_settings(given.balancer, given.set)


def check_evaluated(line):
    """Check a line of a shell's start file: the commands in it exist, and know the option for completion."""
    for program, option in re.findall(r"(coba-\w+) (-\S+)", line):
        assert program in console_scripts(), f"no such command: {program}"
        assert option == ("-sc" if program == "coba-train" else "--print-completion"), line


def check_targets(targets):
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    unknown = set(targets) - set(known)
    assert not unknown, f"the Makefile has no {unknown}"


def local_links(text):
    """Return the files that a text links to; `mkdocs build --strict` checks the headings within them."""
    return [link for link in re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", text) if "://" not in link]


def console_scripts():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return re.findall(r"^\s*([\w-]+)\s*=", config["options.entry_points"]["console_scripts"], re.MULTILINE)


def check_training(arguments):
    """Compose what the line asks for, every job of a sweep, and check it against the classes it will call."""
    given = get_args_parser().parse_args(arguments)
    for overrides in jobs(given.overrides) if given.multirun else [given.overrides]:
        with initialize_config_dir(config_dir=config_folder(), version_base="1.3"):
            config = compose("train", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        check_config(resolved(config))


def jobs(overrides):
    """Return the overrides of each job of a sweep."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices = [
        [f"{one.key_or_group}={value}" for value in values_of(one)] if one.is_sweep_override() else [one.input_line]
        for one in parsed
    ]
    return [list(job) for job in itertools.product(*choices)]


def values_of(override):
    """Return what a sweep tries; of an interval that a search draws from, the ends."""
    if override.is_interval_sweep():
        return [override.value().start, override.value().end]
    return list(override.sweep_string_iterator())


@pytest.fixture
def hydra():
    """Know our resolvers, and leave nothing of Hydra's global state to the next test."""
    register()
    plugins.register()
    yield
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if blocks(text, "python")])
def test_the_python_blocks_run_in_order(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(DOCUMENTS[name], name)


def test_the_documents_have_blocks_that_are_checked():
    assert {"README.md", "docs/balancers.md"} <= {name for name, text in DOCUMENTS.items() if blocks(text, "python")}
    programs = [line.split()[0] for line in command_lines(DOCUMENTS["README.md"])]
    assert {"make", "pip", *console_scripts()} <= set(programs)


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize("line", dict.fromkeys(line for text in DOCUMENTS.values() for line in command_lines(text)))
def test_a_command_line_works(line):
    check_line(line)


@every_document
def test_files_that_it_links_to_exist(name):
    folder = (ROOT / name).parent
    assert [link for link in local_links(DOCUMENTS[name]) if not (folder / link).exists()] == []


def test_links_are_found():
    assert any(link.endswith(".png") for link in local_links(DOCUMENTS["README.md"]))


@every_document
def test_the_make_targets_in_the_prose_exist(name):
    check_targets(re.findall(r"`make ([a-z-]+)", DOCUMENTS[name]))


def test_the_page_of_balancers_has_a_row_and_an_entry_for_each_option():
    page = DOCUMENTS["docs/balancers.md"]
    options = {file.stem for file in Path(config_folder(), "balancer").glob("*.yaml")} - {"none"}
    headings = " ".join(re.findall(r"^### .*", page, re.MULTILINE))
    assert set(re.findall(r"^\| `(\w+)` ", page, re.MULTILINE)) == options
    assert set(re.findall(r"`(\w+)`", headings)) == options


# ---------------------------------------------------------------- the checks themselves can fail

EXAMPLE = """
Text.

```python
x = 1
```

    make nonsense, which is prose

```text
make nonsense, which is no command
```

```python title="second"
y = x + 1
```

```bash
make test  # a comment
coba-train data=files \\
    data.root=here
```
"""


def test_blocks_share_a_namespace_and_lines_are_joined():
    assert run_python(EXAMPLE)["y"] == 2
    assert [line.split() for line in command_lines(EXAMPLE)] == [
        ["make", "test", "#", "a", "comment"],
        ["coba-train", "data=files", "data.root=here"],
    ]


def test_an_error_in_a_block_names_the_line_of_the_readme():
    with pytest.raises(NameError) as error:
        run_python(EXAMPLE.replace("x + 1", "z + 1"))
    assert EXAMPLE.splitlines()[error.traceback[-1].lineno] == "y = x + 1"


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("make nonsense", "has no {'nonsense'}"),
        ("make demo nonsense SEED=2", "has no {'nonsense'}"),
        ("coba-nonsense runs/x", "no such command"),
        ("coba-export runs/x --nonsense", "coba-export does not take runs/x --nonsense"),
        ("coba-evaluate", "coba-evaluate does not take"),
        ("coba-data chekc my_tasks", "coba-data does not take"),
        ('eval "$(coba-nonsense --print-completion bash)"', "no such command"),
        ('eval "$(coba-export --print-nonsense bash)"', "--print-nonsense"),
        ("coba-report runs/x --nonsense", "does not take"),
        ("coba-replay runs/x --balancer nonsense", "must be one of coba"),
        ("coba-replay runs/x --set nonsense=1", "must name a field"),
        ("curl https://example.org | sh", "teach"),
        ("pip install torch", "other versions"),
        ("pip install torch  # -c constraints.txt", "other versions"),
        ("# then pip install torch", "other versions"),
        ("coba-train balancer=nonsense", "Could not find 'balancer/nonsense'"),
        ("coba-train trainer.nonsense=1", "Could not override 'trainer.nonsense'"),
        ("coba-train data=files", "`data.root` has to be given"),
        ("coba-train balancer=coba,uniform", "sweep"),
        ("coba-train -m balancer=uniform,nonsense seed=1,2", "Could not find 'balancer/nonsense'"),
        ("coba-train balancer.temperature=hot", "`balancer.temperature` must be"),
        ("CUDA_VISIBLE_DEVICES=0 coba-nonsense &", "no such command"),
        ("coba-train -m 'balancer.nonsense=interval(1,8)'", "Could not override 'balancer.nonsense'"),
    ],
)
def test_a_line_that_would_fail_a_reader_is_found(line, complaint):
    with pytest.raises((AssertionError, SystemExit, ValueError, HydraException, OmegaConfBaseException)) as error:
        check_line(line)
    assert complaint in str(error.value)


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize(
    "line",
    [
        "make demo SEED=2",
        "pip install -c constraints.txt '.[demo]'",
        "pip install torch --index-url https://example.org/whl  # on a GPU machine",
        "# On a GPU machine: pip install torch --index-url https://example.org/whl",
        "coba-train -m data=files data.root=here balancer=coba,uniform seed=1,2",
        "coba-train experiment=demo --cfg job",
        "coba-export runs/x --merge --dtype bfloat16  # a comment",
        'eval "$(coba-train -sc install=bash)"',
    ],
)
def test_a_line_that_works_is_let_through(line):
    check_line(line)
