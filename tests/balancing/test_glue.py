"""The callback among others: a second balancer, manual optimisation, precision, pickling, type hints."""

import inspect
import pickle
import typing

import pytest
import torch
from foreign import SHORT_RUNS, Foreign, Stepping, fit, held_out
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_coba import ConvergenceBalancer, TaskBalancing
from lightning_coba.balancers import LBTW, CoBa, Uniform
from lightning_coba.simplex import MovesSimplex

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}


class TwoStages(Foreign):
    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        first = self.first_weights.combine({"a": losses["a"], "b": losses["b"]})
        second = self.second_weights.combine({"b": losses["b"], "c": losses["c"]})
        return first + second


def test_two_balancers_with_two_attributes(tmp_path):
    def callbacks():
        return (
            ConvergenceBalancer(["a", "b"], attribute="first_weights", **COBA),
            ConvergenceBalancer(["b", "c"], attribute="second_weights", **COBA),
        )

    first, second = callbacks()
    module = TwoStages()
    trainer = fit(module, first, second)
    assert first.history["weight"].shape == second.history["weight"].shape == (4, 2)
    assert first.history["weight"][-1, 0] == trainer.callback_metrics["balance/first_weights/weight/a"]
    assert second.history["weight"][-1, 0] == trainer.callback_metrics["balance/second_weights/weight/b"]
    assert first.history["loss"][:, 1].equal(second.history["loss"][:, 0])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = callbacks()
    fit(TwoStages(), *again, ckpt_path=tmp_path / "last.ckpt", max_epochs=4)
    for before, after in zip((first, second), again, strict=True):
        assert after.history["weight"].equal(before.history["weight"])


@pytest.mark.parametrize("attribute", ["task_weights", "balance", "second"])
def test_keys_are_under_the_attribute_of_any_but_the_default(attribute):
    class Own(Foreign):
        def training_step(self, batch, batch_idx):
            return getattr(self, attribute).combine(self.losses(batch))

    callback = ConvergenceBalancer(attribute=attribute, **COBA)
    metrics = fit(Own(), callback, max_epochs=1).callback_metrics
    prefix = "balance/second" if attribute == "second" else "balance"
    expected = {f"{prefix}/{column}/{task}" for column in ("weight", "loss_ratio", "slope") for task in "abc"}
    found = {key for key in metrics if key.startswith("balance/")}
    assert expected <= found
    assert all(key.startswith(f"{prefix}/") and key.count("balance") == 1 for key in found)
    [simplex] = callback.simplexes()
    assert simplex.log_prefix == prefix
    assert simplex.names == ("a", "b", "c")
    assert simplex.num_records == 1


def test_two_balancers_that_would_log_under_one_name_are_refused():
    with pytest.raises(ValueError, match=r"2 balancers .* Give each its own `attribute`"):
        fit(Foreign(), ConvergenceBalancer(**COBA), ConvergenceBalancer(attribute="balance", **COBA))


def test_there_is_no_simplex_before_the_tasks_are_known():
    assert ConvergenceBalancer().simplexes() == []
    assert isinstance(ConvergenceBalancer(), MovesSimplex)


@pytest.mark.parametrize("make", [
    lambda: ConvergenceBalancer(**COBA),
    lambda: ConvergenceBalancer(every_n_steps=2, held_out=held_out(), **COBA),
    lambda: TaskBalancing(LBTW(), tasks=["a", "b", "c"]),
])  # fmt: skip
def test_a_trainer_that_never_logs_steps_is_balanced_all_the_same(make, tmp_path):
    callback = make()
    logger = CSVLogger(tmp_path)
    trainer = fit(Stepping(), callback, logger=logger, log_every_n_steps=0, max_epochs=2)
    assert callback.num_records > 0
    assert trainer.callback_metrics["balance/weight/a"] == callback.history["weight"][-1, 0]
    logged = "".join(path.read_text() for path in tmp_path.rglob("metrics.csv"))
    assert ("balance/weight/a" in logged) == (callback.interval is None)  # passes are logged, steps never


class Manual(Stepping):
    """Steps by hand on every second batch, so that a window is two batches."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        if batch_idx % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


def test_manual_optimisation_at_validation_cadence():
    module, callback = Manual(), ConvergenceBalancer(**COBA)
    fit(module, callback, max_epochs=2, val_check_interval=3)
    assert callback.history["step"] == [1, 3, 4, 6]  # passes after batches 3 and 6 of each epoch
    weights = [[1 / 3] * 3, *callback.history["weight"].tolist()]
    # The pass after batch 3 falls into the window of the second step (batches 3 and 4).
    assert module.in_force == [(step, weights[taken]) for step, taken in zip(
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3], strict=True
    )]  # fmt: skip


def test_manual_optimisation_at_step_cadence():
    module = Manual()
    callback = ConvergenceBalancer(every_n_steps=2, held_out=held_out(), **COBA)
    fit(module, callback, max_epochs=4)
    assert callback.history["step"] == [2, 4, 6, 8, 10, 12]
    weights = [[1 / 3] * 3, *callback.history["weight"].tolist()]
    assert module.in_force == [(batch // 2, weights[batch // 4]) for batch in range(24)]


def test_two_optimizer_steps_in_a_batch_count_once():
    class Twice(Manual):
        def training_step(self, batch, batch_idx):
            self.manual_backward(Foreign.training_step(self, batch, batch_idx))
            self.optimizers().step()
            self.optimizers().step()
            self.optimizers().zero_grad()

    callback = ConvergenceBalancer(every_n_steps=2, held_out=held_out(), **COBA)
    fit(Twice(), callback, max_epochs=2)
    assert callback.history["step"] == [4, 8, 12, 16, 20, 24]  # 12 batches of two steps each


def test_bf16_true_keeps_float64_weights():
    module, callback = Foreign(), ConvergenceBalancer(**COBA)
    fit(module, callback, precision="bf16-true", train=None)
    assert module.trunk[0].weight.dtype == torch.bfloat16
    assert module.task_weights.values.dtype == torch.float64
    assert callback.state_dict()["recorder"]["state"]["ratios"].dtype == torch.float64
    assert module.in_force[-1][1] == callback.history["weight"][2].tolist()  # no digit lost on the way
    assert callback.history["weight"].sum(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-15)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvergenceBalancer(["a", "b", "c"], **COBA),
        lambda: ConvergenceBalancer(every_n_steps=2, held_out=held_out(), **COBA),
        lambda: TaskBalancing(CoBa(**COBA), prior={"a": 2.0}),
    ],
)
def test_a_pickled_callback_works_before_and_after_a_fit(make):
    callback = pickle.loads(pickle.dumps(make()))
    fit(Stepping(), callback)
    again = pickle.loads(pickle.dumps(callback))
    assert len(pickle.dumps(callback)) < 100_000  # no Trainer goes with it
    assert again.history["weight"].equal(callback.history["weight"])
    assert again.explain() == callback.explain()
    fit(Stepping(), again, max_epochs=1)
    assert len(again.history["step"]) > len(callback.history["step"])


@pytest.mark.parametrize("cls", [ConvergenceBalancer, TaskBalancing])
def test_type_hints_resolve_as_lightning_cli_needs_them(cls):
    hints = typing.get_type_hints(cls.__init__)
    assert set(hints) == {*inspect.signature(cls).parameters, "return"}


def test_both_constructors_share_the_glue_arguments():
    flat, general = (inspect.signature(cls).parameters for cls in (ConvergenceBalancer, TaskBalancing))
    # CoBa asks for no gradients, so it has no use for a choice of parameters.
    shared = [name for name in general if name not in ("balancer", "parameters")]
    assert [name for name in flat if name in shared] == shared
    for name in shared:
        assert flat[name].default == general[name].default, name


def test_callbacks_after_this_one_see_this_pass(tmp_path):
    class Follower(EarlyStopping):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                seen.append(trainer.callback_metrics["balance/weight/a"].item())

    seen = []
    callback = ConvergenceBalancer(**COBA)
    saver = ModelCheckpoint(tmp_path, filename="{step}", monitor="balance/weight/a", mode="max", save_top_k=-1)
    module = Foreign()
    fit(module, callback, Follower("balance/weight/a"), saver, enable_checkpointing=True, max_epochs=3)
    assert seen == callback.history["weight"][:, 0].tolist()
    for path in tmp_path.glob("*.ckpt"):
        stored = torch.load(path, weights_only=True)
        steps = stored["callbacks"][callback.state_key]["recorder"]["trajectory"]["steps"]
        assert steps[-1] == stored["global_step"]  # the record of this pass is in its checkpoint
    assert len(list(tmp_path.glob("*.ckpt"))) == 3


def test_uniform_is_the_plain_mean():
    module, plain = Foreign(), Foreign(steers=False)
    fit(module, TaskBalancing(Uniform()))
    fit(plain)
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
