"""What the callback refuses, announces and warns of; every sentence once, and none where it is not due."""

import pytest
import torch
from foreign import SHORT_RUNS, Foreign, Stepping, fit, held_out
from torch import nn

from lightning_coba import ConvergenceBalancer, TaskBalancing
from lightning_coba.balancers import CoBa, Uniform

short = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}


@pytest.mark.parametrize("options", [{"max_epochs": 2}, {"max_steps": 2, "max_epochs": -1}], ids=str)
@short
def test_weights_that_nobody_reads_are_warned_of_once(options):
    with pytest.warns(UserWarning, match="never used") as warned:
        fit(Foreign(steers=False), ConvergenceBalancer(**COBA), **options)
    unused = [str(w.message) for w in warned if "never used" in str(w.message)]
    assert unused == [
        "Foreign never used `self.task_weights`: ConvergenceBalancer computes weights that change nothing. In "
        "training_step write: return self.task_weights.combine(losses)"
    ]


@pytest.mark.parametrize("max_steps", [2, 24])
@short
def test_weights_read_one_by_one_are_used(max_steps):
    class Own(Foreign):
        def training_step(self, batch, batch_idx):
            return sum(self.task_weights[task] * loss for task, loss in self.losses(batch).items())

    fit(Own(), ConvergenceBalancer(**COBA), max_steps=max_steps, max_epochs=-1)  # a warning would be an error


def test_reading_weights_in_validation_only_is_no_use():
    class Peeking(Foreign):
        def validation_step(self, batch, batch_idx):
            if self.trainer.sanity_checking:
                self.task_weights.combine(self.losses(batch))
            super().validation_step(batch, batch_idx)

    with pytest.warns(UserWarning, match="never used"):
        fit(Peeking(steers=False), ConvergenceBalancer(**COBA))


@short
def test_a_learned_task_that_training_never_has():
    class Weighted(Foreign):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("val_loss/weighted", sum(self.losses(batch).values()))

    with pytest.raises(
        RuntimeError,
        match=r"received a, b, c in a whole epoch, and never weighted, .*is logged. Name the tasks: "
        r"ConvergenceBalancer\(tasks=\['a', 'b', 'c'\]\)",
    ):
        fit(Weighted(), ConvergenceBalancer(**COBA))
    fit(Weighted(), ConvergenceBalancer(tasks=["a", "b", "c"], **COBA))


@short
def test_a_trained_task_that_was_never_logged():
    class Half(Foreign):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss/a", self.losses(batch)["a"])

    with pytest.raises(KeyError, match=r"'b' is no task. The tasks are: a"):
        fit(Half(), ConvergenceBalancer(**COBA))


@short
def test_unknown_names_are_an_error_only_at_the_first_record():
    class Silent(Foreign):
        def validation_step(self, batch, batch_idx):
            self.log("val_accuracy", 1.0)

    module = Silent()
    with pytest.raises(
        RuntimeError,
        match=r"knows no task names.*Logged: val_accuracy. Give .* tasks=\[...\].*'val_loss/code'",
    ):
        fit(module, ConvergenceBalancer(**COBA))
    assert len(module.in_force) == 6  # a whole epoch went by first


@pytest.mark.parametrize(
    ("balancer", "options", "message"),
    [
        (
            {},
            {"max_epochs": 4},
            r"about 4 records are to come, and the weights move from record 3 on.*`trainer.val_check_inter",
        ),
        ({}, {"max_epochs": 4, "limit_val_batches": 0}, r"about 0 records"),
        (
            {"every_n_steps": 4, "held_out": 1},
            {"max_epochs": 4},
            r"about 6 records.*from record 6 on.*smaller `every_n_steps`",
        ),
    ],
    ids=["validation", "no validation", "steps"],
)
def test_too_few_records_are_warned_of_with_number_and_setting(balancer, options, message):
    if "held_out" in balancer:
        balancer = balancer | {"held_out": held_out()}
    callback = ConvergenceBalancer(tasks=["a", "b", "c"], **balancer)
    with pytest.warns(UserWarning, match=message):
        fit(Stepping(), callback, **options)


@short
def test_records_that_were_taken_count():
    callback = ConvergenceBalancer(tasks=["a", "b", "c"])
    fit(Foreign(), callback, max_epochs=2)
    with pytest.warns(UserWarning, match=r"about 1 record is to come after the 2 taken so far, .*from record 3 on"):
        fit(Foreign(), callback, max_epochs=1)


def test_enough_records_are_not_warned_of():
    fit(Foreign(), ConvergenceBalancer(), max_epochs=5)
    fit(Foreign(), ConvergenceBalancer(), max_epochs=3, val_check_interval=0.5)
    fit(Foreign(), TaskBalancing(Uniform()), max_epochs=1)  # has no warm-up


@short
def test_names_and_settings_are_printed_once(said):
    callback = ConvergenceBalancer(**COBA, prior={"a": 2.0}, min_weight=0.1)
    fit(Foreign(), callback)
    assert said == [
        "ConvergenceBalancer balances the tasks that it found logged: a, b, c.",
        "ConvergenceBalancer: CoBa(window_records=3, warmup_records=1, temperature=5.0, form='paper', "
        "significance=None), "
        "prior {'a': 2.0}, min_weight 0.1, a record every validation pass.",
    ]


@short
def test_given_names_are_not_announced_as_found(said):
    fit(Foreign(), ConvergenceBalancer(["a", "b", "c"], **COBA))
    assert len(said) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, r"`every_n_steps` must be None or an integer >= 1; got 0"),
        ({"every_n_steps": 1.5}, r"`every_n_steps` must be None or an integer >= 1; got 1.5"),
        (
            {"baseline": "last"},
            r"`baseline` must be \"measure\", \"first_record\" or \{task: V\(0\)\}; got 'last'",
        ),
        ({"prior": {"a": 0.0}}, r"`prior` must be finite numbers > 0; got \{'a': 0.0\}"),
        ({"min_weight": -0.1}, r"`min_weight` must be in \[0, 1/K\); got -0.1"),
        ({"tasks": "code"}, r"`tasks` must be a list of names; got the string 'code'. Write \['code'\]"),
        ({"monitor": "val_loss"}, r"`monitor` must hold '\{task\}' once"),
        ({"window_records": 1}, r"`CoBa.window_records` must be an integer >= 2; got 1"),
        ({"form": "mftcoder", "warmup_records": 2}, r"must have 3 <= warmup_records < window_records"),
    ],
    ids=str,
)
def test_arguments_outside_their_domain(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvergenceBalancer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": {"x": 1.0}}, r"`prior` names \['x'\]; the tasks are: a, b, c"),
        ({"min_weight": 0.34}, r"`min_weight` must be < 1/3"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_the_tasks_are_refused_before_training(arguments, message):
    module = Foreign()
    with pytest.raises(ValueError, match=message):
        fit(module, ConvergenceBalancer(**arguments))
    assert module.in_force == []


def test_two_balancers_of_the_same_weights_are_refused():
    with pytest.raises(ValueError, match=r"2 balancers move `task_weights`. Give each its own `attribute`"):
        fit(Foreign(), ConvergenceBalancer(), TaskBalancing(CoBa()))


def test_an_attribute_that_is_something_else_is_refused():
    module = Foreign()
    module.task_weights = nn.Linear(1, 1)
    with pytest.raises(
        ValueError, match=r"`attribute='task_weights'` must be a TaskWeights of Foreign; it is a Linear"
    ):
        fit(module, ConvergenceBalancer())


@short
def test_a_step_whose_losses_are_all_plain_numbers_is_refused_with_what_to_return():
    class Numbers(Foreign):
        def training_step(self, batch, batch_idx):
            return self.task_weights.combine({"a": 0.0})

    with pytest.raises(ValueError, match=r"Numbers.training_step must depend on a trained parameter; got 0.0.*None"):
        fit(Numbers(), ConvergenceBalancer(tasks=["a", "b", "c"], **COBA))


class Silent(Stepping):
    """Has no finite held-out loss of `b`, and no training row of `c`."""

    def losses(self, batch):
        losses = super().losses(batch)
        if not torch.is_grad_enabled():
            return losses | {"b": losses["b"] * torch.nan}
        return {task: loss for task, loss in losses.items() if task != "c"}


@pytest.mark.parametrize("cadence", [{}, {"every_n_steps": 2, "held_out": 1}], ids=["validation", "steps"])
@short
def test_tasks_that_a_balancer_hears_nothing_of_are_warned_of_once(cadence):
    if cadence:
        cadence = cadence | {"held_out": held_out()}
    with pytest.warns(UserWarning, match="no ") as warned:
        fit(Silent(), ConvergenceBalancer(tasks=["a", "b", "c"], **cadence, **COBA))
    said = [str(w.message) for w in warned if "ConvergenceBalancer: no " in str(w.message)]
    assert len(said) == 2
    assert any(f"no finite held-out loss of b in the first {6 if cadence else 2} records" in line for line in said)
    assert any(f"no training row of c in the first {10 if cadence else 12} batches" in line for line in said)
