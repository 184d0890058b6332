"""The progress bar as it is read: on terminals of two widths, in a log file, with any module and any balancer."""

import io
import re

import lightning as L
import pytest
from foreign import QUIET, SHORT_RUNS, TASKS, Foreign, Stepping, rows, train_loader, val_loader
from rich.console import Console
from torch.utils.data import DataLoader

from lightning_coba import ConvergenceBalancer, TaskWeights
from lightning_coba.balancers import FAMO, CoBa, Uniform
from lightning_coba.balancing import TaskBalancing
from lightning_coba.callbacks import TaskProgressBar
from lightning_coba.callbacks.task_progress_bar import line_of_tasks
from lightning_coba.simplex.standings import ARROWS, ASCII_ARROWS, Standing, Standings, standings_table

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}
MANY = ("deutsch", "francais", "code_python", "summaries", "qa", "math-word-problems", "nli", "sentiment")


@pytest.fixture
def shown():
    """Return a function that fits with the bar and returns what was written, without the codes of a terminal."""

    def run(
        *callbacks,
        module=None,
        terminal=True,
        width=120,
        encoding="utf-8",
        steps=6,
        raw=False,
        checkpoint=None,
        **options,
    ):
        buffer = io.BytesIO()
        out = io.TextIOWrapper(buffer, encoding=encoding, errors="strict")
        bar = TaskProgressBar(console_kwargs={"file": out, "force_terminal": terminal, "width": width})
        own = {"enable_progress_bar": True, "log_every_n_steps": 1, "max_steps": steps, "max_epochs": -1}
        options = QUIET | own | options
        trainer = L.Trainer(**options, val_check_interval=2, num_sanity_val_steps=-1, callbacks=[*callbacks, bar])
        trainer.fit(module or Foreign(), train_loader(), val_loader(), ckpt_path=checkpoint)
        out.flush()
        written = buffer.getvalue().decode(encoding)
        return written if raw else re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).replace("\r", "\n")

    yield run
    import rich

    rich._console = None  # Lightning reconfigures the one that all share


def test_a_task_in_a_few_characters():
    task = Standing("de", val_loss=2.549, ratio=0.821, slope=-0.01, weight=0.171)
    assert task.words() == "de 0.82↓ 0.17x"
    assert task.words(ASCII_ARROWS) == "de 0.82v 0.17x"
    assert Standing("de", 2.549, ratio=1.2, slope=0.3, weight=1.0).words() == "de 1.20↑ 1.00x"
    assert Standing("de", 2.549, ratio=1.2, slope=1e-6, weight=-0.25).words() == "de 1.20→ -0.25x"
    assert Standing("de", 2.549).words() == "de 2.55"
    assert Standing("de", weight=0.5).words() == "de 0.50x"


def test_log_file_gets_a_line_a_validation_pass_and_no_bar(shown):
    written = shown(ConvergenceBalancer(**COBA), terminal=False, raw=True)
    assert "\x1b[" not in written.split("Epoch")[0]
    lines = [line for line in written.splitlines() if "validated" in line]
    assert [line.split("  ")[0] for line in lines] == [f"step {n}/6" for n in (2, 4, 6)]
    for task in TASKS:
        assert re.search(rf"  {task} \d\.\d\d[↓→↑] \d\.\d\dx", lines[-1])
    assert not re.search("[↓→↑]", lines[0])  # one record has no direction


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_shows_a_table_and_a_line_that_fit(shown, width):
    class Many(Foreign):
        def losses(self, batch):
            x, y = batch
            hidden = self.trunk(x)
            return {t: (self.heads[t](hidden)[:, 0] - y[:, i % 3]).square().mean() for i, t in enumerate(self.names)}

    written = shown(ConvergenceBalancer(**COBA), module=Many(MANY), width=width)
    assert max(len(line) for line in written.splitlines()) <= width
    tables = written.split("validated")[1:]
    assert len(tables) == 3
    header = next(line for line in tables[-1].splitlines() if line.startswith("task"))
    assert header.split() == ["task", "val", "loss", "/", "before", "slope", "weight", "change", "RCS", "ACS"]
    for task in MANY:
        assert re.search(
            rf"^{task} +\d+\.\d+ +\d\.\d+ +[+-]0\.\d+ [↓→↑] +\d\.\d\dx +[+-]\d\.\d+ +0\.\d+ +0\.\d+", tables[-1], re.M
        )
    after = tables[-1].splitlines()
    last_bar = max(i for i, line in enumerate(after) if "━" in line)
    below = " ".join(after[last_bar + 1 :])
    assert all(re.search(rf"{task} \d\.\d\d[↓→↑] \d\.\d\dx", below) for task in MANY)
    assert len(after) - last_bar - 1 <= 5


def test_rows_below_the_bar_are_few_whatever_the_number_of_tasks(shown):
    module = Foreign(steers=False)
    names = [f"task-{i:02}-with-a-long-name" for i in range(30)]
    module.task_weights = TaskWeights(names)

    def validation_step(batch, batch_idx):
        for name in names:
            module.log(f"val_loss/{name}", 1.0)

    module.validation_step = validation_step
    bar = shown(module=module, width=80).split("validated")[-1].splitlines()
    below = bar[max(i for i, line in enumerate(bar) if "━" in line) + 1 :]
    assert sum("1.00" in line for line in below) == 4
    assert all(len(line) <= 80 for line in below)
    assert "... 11 more" in below[3]


def test_eight_tasks_with_ordinary_names_fit_the_line():
    names = [
        "translation_en_de", "code_completion", "qa_multilingual", "text_to_sql", "natural_language_inference",
        "math_word_problems", "paraphrase", "intent_classification",
    ]  # fmt: skip
    standings = Standings([Standing(name, ratio=0.82, slope=-0.01, weight=1.03) for name in names])
    for width in (80, 120):
        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        console.print(line_of_tasks(standings, console, ARROWS))
        lines = console.file.getvalue().splitlines()
        assert sum(line.count("0.82↓ 1.03x") for line in lines) == 8
        assert len(lines) <= 4


def test_old_terminals_get_letters_they_know(shown):
    written = shown(ConvergenceBalancer(**COBA), terminal=False, encoding="cp1252", steps=4)
    assert re.search(r"a \d\.\d\d[v=^] \d\.\d\dx", written)
    table = standings_table(Standings([Standing("a", 1.0, 0.9, -0.1, 0.5)]), "title", unicode=False)
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    assert out.getvalue().isascii()
    assert "-0.1000 v" in out.getvalue()


def test_line_is_current_with_the_step_cadence_and_training_losses(shown):
    written = shown(TaskBalancing(FAMO()), module=Stepping(), steps=4)
    table = written.split("validated")[-1]
    assert "train / first" in table
    assert "RCS" not in table
    before_validation = written.split("validated")[0]
    assert re.search(r"^a \d\.\d\d", before_validation, re.M)  # record 1 is shown at step 2


def test_two_balancers_are_named(shown):
    class Two(Foreign):
        def __init__(self):
            super().__init__()
            self.other_weights = TaskWeights(TASKS)

        def training_step(self, batch, batch_idx):
            losses = self.losses(batch)
            return self.task_weights.combine(losses) + self.other_weights.combine(losses)

    second = TaskBalancing(CoBa(**COBA), attribute="other_weights", tasks=TASKS)
    line = shown(TaskBalancing(Uniform(), tasks=TASKS), second, module=Two(), terminal=False).splitlines()
    last = [text for text in line if "validated" in text][-1]
    assert re.search(r"\[balance\]  a .*  \[other_weights\]  a ", last)


def test_without_a_balancer_the_losses_are_shown(shown):
    class Stepwise(Foreign):
        def validation_step(self, batch, batch_idx):
            for task, loss in self.losses(batch).items():
                self.log(f"val_loss/{task}", loss, on_step=True, on_epoch=True)  # kept under two names

    class Silent(Foreign):
        def validation_step(self, batch, batch_idx): ...

    for module in (Foreign(steers=False), Stepwise(steers=False)):
        line = [text for text in shown(module=module, terminal=False).splitlines() if "validated" in text][-1]
        assert re.search(r"validated  a \d+\.\d\d  b \d+\.\d\d  c \d+\.\d\d$", line)
    line = [text for text in shown(module=Silent(steers=False), terminal=False).splitlines() if "validated" in text][-1]
    assert line.endswith("validated")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_trainer_that_never_logs_gets_its_tables_all_the_same(shown, terminal):
    written = shown(ConvergenceBalancer(**COBA), terminal=terminal, log_every_n_steps=0)
    assert written.count("validated") == 3


def test_a_task_whose_loss_rises_is_red():
    table = standings_table(Standings([Standing("up", 1.0, 1.2, 0.1, 0.5), Standing("down", 1.0, 0.8, -0.1, 0.5)]), "")
    assert [row.style for row in table.rows] == ["red", ""]


def test_bar_itself_shows_the_loss_only():
    bar = TaskProgressBar(console_kwargs={"file": io.StringIO()})
    trainer = L.Trainer(**QUIET | {"enable_progress_bar": True, "max_epochs": 1}, callbacks=[bar])
    module = Foreign(steers=False)
    trainer.fit(module, DataLoader(rows(8), batch_size=4), val_loader())
    assert set(bar.get_metrics(trainer, module)) <= {"loss"}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize(("accumulate", "end"), [(1, (4, 4)), (2, (2, 2))])  # the same epoch, and the next one
def test_a_resumed_bar_counts_no_further_than_the_run(shown, tmp_path, accumulate, end):
    file = tmp_path / "half.ckpt"

    class Saving(L.Callback):
        def on_train_end(self, trainer, pl_module):
            trainer.save_checkpoint(file)

    options = {"accumulate_grad_batches": accumulate, "log_every_n_steps": 0}
    shown(Saving(), module=Foreign(steers=False), steps=3, **options)
    written = shown(module=Foreign(steers=False), steps=4, checkpoint=file, **options)
    counts = [(int(done), int(total)) for done, total in re.findall(r"Epoch.* (\d+)/(\d+)", written)]
    assert counts[-1] == end
    assert all(done <= total for done, total in counts)


def test_the_bar_says_what_is_left_of_the_run(shown):
    written = shown(ConvergenceBalancer(**COBA))
    assert re.search(r"6/6 0:00:\d\d • 0:00:00 left", written)
