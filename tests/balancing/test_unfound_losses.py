"""A module whose losses are not where the callback looks: told before training, with the keys and what to write."""

import pytest
from foreign import SHORT_RUNS, Foreign, Stepping, fit, held_out

from lightning_coba import ConvergenceBalancer, TaskBalancing
from lightning_coba.balancers import Uniform
from lightning_coba.balancing.logged_keys import loss_patterns

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
NAMES = ["a", "b", "c"]


class Logging(Foreign):
    """Logs each task's loss under a pattern, and other values."""

    def __init__(self, pattern, *others):
        super().__init__()
        self.pattern, self.others = pattern, others

    def validation_step(self, batch, batch_idx):
        losses = self.losses(batch)
        for task, loss in losses.items():
            self.log(self.pattern.format(task=task), loss)
            self.log(f"val_acc/{task}", loss)
        for key in self.others:
            self.log(key, sum(losses.values()))


def refusal(module, *callbacks, **options):
    with pytest.raises(RuntimeError) as caught:
        fit(module, *callbacks, max_epochs=1, **options)
    return str(caught.value)


@pytest.mark.parametrize("pattern", ["valid_loss/{task}", "val_{task}_loss", "val_loss_{task}", "{task}/val_loss"])
@pytest.mark.parametrize("tasks", [None, NAMES], ids=["unnamed", "named"])
def test_losses_under_another_pattern_are_answered_before_training_with_the_monitor(pattern, tasks):
    module = Logging(pattern, "val_loss_combined", "val_total_loss")
    told = refusal(module, ConvergenceBalancer(tasks=tasks))
    assert f"the argument monitor={pattern!r}" in told
    assert pattern.format(task="b") in told.partition("Logged:")[2]
    assert module.in_force == []
    callback = ConvergenceBalancer(monitor=pattern)
    fit(Logging(pattern), callback, max_epochs=1)
    assert callback.tasks == tuple(NAMES)


def test_other_names_than_those_logged_are_answered_before_training_with_the_tasks():
    module = Foreign()
    told = refusal(module, ConvergenceBalancer(tasks=["x", "y"]))
    assert "no loss of the tasks x, y" in told
    assert (
        "Logged: val_loss/a, val_loss/b, val_loss/c. Give ConvergenceBalancer the argument tasks=['a', 'b', 'c']"
        in told
    )
    assert module.in_force == []


def test_without_a_pass_before_training_the_first_record_tells():
    told = refusal(Foreign(steers=False), ConvergenceBalancer(tasks=["x", "y"]), num_sanity_val_steps=0)
    assert "the argument tasks=['a', 'b', 'c']" in told


def test_losses_that_nobody_logs_are_told_at_the_first_record():
    module = Logging("accuracy_{task}")
    told = refusal(module, ConvergenceBalancer(tasks=NAMES))
    assert "accuracy_b" in told
    assert "write self.log('val_loss/a', loss)" in told
    assert len(module.in_force) == 6


def test_a_balancer_without_need_of_losses_runs_without_them():
    module = Logging("val_{task}_loss")
    fit(module, TaskBalancing(Uniform(), tasks=NAMES), max_epochs=1)
    assert len(module.in_force) == 6


def test_a_summary_of_the_tasks_is_no_task_and_is_said_to_be_left_out(said):
    callback = ConvergenceBalancer(monitor="val_loss_{task}")
    fit(Logging("val_loss_{task}", "val_loss_combined"), callback, max_epochs=1)
    assert callback.tasks == tuple(NAMES)
    assert (
        "a, b, c. Left out as a summary of them: val_loss_combined; if that is a task, name all with tasks=" in said[0]
    )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"num_sanity_val_steps": 0}, "num_sanity_val_steps=0"),
        ({"fast_dev_run": True}, "fast_dev_run"),
        ({"limit_val_batches": 0}, "no task's loss was logged"),
    ],
    ids=str,
)
def test_why_there_is_no_baseline_is_said(said, options, why):
    fit(Foreign(), ConvergenceBalancer(tasks=NAMES), max_epochs=1, **options)
    [told] = [line for line in said if "V(0) is its first record" in line]
    assert told.startswith(f"ConvergenceBalancer: {why}")


def test_task_losses_of_other_names_are_told_with_the_names():
    class Other(Stepping):
        def task_losses(self, batch):
            return {f"{task}_loss": loss for task, loss in self.losses(batch).items()}

    told = refusal(Other(), ConvergenceBalancer(tasks=NAMES, every_n_steps=2, held_out=held_out()))
    assert "`task_losses` gave no loss of 'a' on its held-out rows, only of 'a_loss', 'b_loss', 'c_loss'" in told


@pytest.mark.parametrize(
    ("keys", "tasks", "patterns"),
    [
        (["val_qa_loss", "val_qa_loss_step", "val_sql_loss/dataloader_idx_1"], (), {"val_{task}_loss": ["qa", "sql"]}),
        (["train_loss/a", "val_loss", "val_acc_a", "val_loss_mean", "loss_val_epoch"], (), {}),
        (["my.a_b.loss", "my.a.loss"], ("a", "a_b"), {"my.{task}.loss": ["a_b", "a"], "my.{task}_b.loss": ["a"]}),
        (["dev/open_qa/loss", "dev/sql/loss"], (), {"dev/{task}/loss": ["open_qa", "sql"]}),
    ],
)
def test_patterns_are_told_from_keys(keys, tasks, patterns):
    assert loss_patterns(keys, tasks) == patterns
