"""The drop-in on a module that imports nothing of ours: names, baseline, records, weights, keys, history."""

import lightning as L
import pytest
import torch
from foreign import SHORT_RUNS, TASKS, Foreign, fit, val_loader

from lightning_coba import ConvergenceBalancer, TaskBalancing, TaskWeights, replay
from lightning_coba.balancers import CoBa, Fixed, Uniform

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 4, "warmup_records": 2}
UNIFORM = [1 / 3] * 3


@pytest.fixture(scope="module")
def run():
    module, callback = Foreign(), ConvergenceBalancer(**COBA)
    at_start = module.losses_on(val_loader())
    trainer = fit(module, callback, max_epochs=6)
    return module, callback, trainer, at_start


def test_names_come_from_the_logged_keys_in_logged_order(run):
    assert run[1].tasks == TASKS
    assert run[0].task_weights.tasks == TASKS


def test_baseline_is_the_full_pass_before_training(run):
    _, callback, _, at_start = run
    history = callback.history
    torch.testing.assert_close(history["loss"] / history["ratio"], at_start.expand(6, 3), rtol=1e-6, atol=0)
    two_batches = Foreign().losses_on(list(val_loader())[:2])
    assert not torch.allclose(two_batches, at_start, rtol=1e-3)  # a short sanity pass would have been seen


def test_one_record_after_each_validation_epoch_at_its_step(run):
    module, callback, _, _ = run
    assert callback.history["record"] == [1, 2, 3, 4, 5, 6]
    assert callback.history["step"] == [6, 12, 18, 24, 30, 36]
    torch.testing.assert_close(callback.history["loss"][-1], module.losses_on(val_loader()), rtol=1e-6, atol=0)


def test_record_acts_from_the_next_step_on(run):
    module, callback, _, _ = run
    weights = [UNIFORM, *callback.history["weight"].tolist()]
    assert module.in_force == [(step, weights[step // 6]) for step in range(36)]
    assert weights[1] == UNIFORM  # warm-up, to the last bit
    assert weights[3] != pytest.approx(UNIFORM, abs=1e-3)


def test_weights_act_on_the_parameters(run):
    uniform = Foreign()
    fit(uniform, TaskBalancing(Uniform()), max_epochs=6)
    assert not torch.allclose(uniform.heads["a"].weight, run[0].heads["a"].weight, atol=1e-4)


def test_weights_are_read_from_callback_metrics(run):
    _, callback, trainer, _ = run
    for name, column in (("weight", "weight"), ("loss_ratio", "ratio"), ("slope", "slope")):
        logged = [trainer.callback_metrics[f"balance/{name}/{task}"].item() for task in TASKS]
        assert logged == callback.history[column][-1].tolist()
    metrics = trainer.callback_metrics
    assert metrics["balance/divergence_factor"] == callback.history["divergence_factor"][-1]
    change = (callback.history["weight"][-1] - callback.history["weight"][-2]).abs().sum()
    assert metrics["balance/weight_change"].item() == pytest.approx(change.item())
    assert metrics["balance/ignored_records"] == 0


def test_history_has_a_column_for_everything_known(run):
    history = run[1].history
    names = ["record", "step", "loss", "ratio", "slope", "rcs", "acs", "weight", "divergence_factor"]
    assert list(history) == names
    for name in ("loss", "ratio", "slope", "rcs", "acs", "weight"):
        assert history[name].shape == (6, 3)
        assert history[name].dtype == torch.float64
    assert history["divergence_factor"].shape == (6,)
    assert history["rcs"][0].isnan().all()  # warm-up
    assert history["rcs"][-1].isfinite().all()


def test_replay_of_the_history_gives_the_live_weights(run):
    _, callback, _, at_start = run
    initial = callback.history["loss"][0] / callback.history["ratio"][0]
    replayed = replay(CoBa(**COBA), callback.history["loss"], initial=initial)
    torch.testing.assert_close(replayed, callback.history["weight"], rtol=1e-9, atol=1e-12)
    other = replay(CoBa(**COBA), callback.history["loss"], initial=2 * at_start[[2, 1, 0]])
    assert not torch.allclose(other, callback.history["weight"], rtol=1e-3)


def test_explain_shows_every_task(run):
    table = run[1].explain()
    assert "weights" in table.splitlines()[0] or "equal share" in table.splitlines()[0]
    assert [line.split()[0] for line in table.splitlines()[-len(TASKS) - 2 :]] == ["task", *TASKS, "record"]
    assert f"{run[1].history['weight'][-1, 0]:.4f}" in table
    assert "No fit yet" in ConvergenceBalancer().explain()


def test_loggers_receive_a_row_at_lightnings_own_step(tmp_path):
    logger = L.pytorch.loggers.CSVLogger(tmp_path)
    fit(Foreign(), ConvergenceBalancer(**COBA), logger=logger, max_epochs=3, log_every_n_steps=1)
    lines = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    header, *cells = [line.split(",") for line in lines]
    rows = [dict(zip(header, row, strict=True)) for row in cells]
    steps = [[row["step"] for row in rows if row[key]] for key in ("balance/weight/a", "val_loss/a")]
    assert steps[0] == steps[1]  # one label a pass, so that the rows can be joined
    assert len(steps[0]) == 3


def test_a_module_may_own_its_weights():
    module = Foreign()
    module.task_weights = TaskWeights(["c", "a", "b"])
    callback = TaskBalancing(CoBa(**COBA))
    fit(module, callback, max_epochs=1)
    assert callback.tasks == ("c", "a", "b")
    torch.testing.assert_close(
        callback.history["loss"][0], module.losses_on(val_loader())[[2, 0, 1]], rtol=1e-6, atol=0
    )


def test_names_in_their_order_of_precedence():
    class Datamodule(L.LightningDataModule):
        task_names = ("b", "c", "a")

        def train_dataloader(self):
            return val_loader()

        def val_dataloader(self):
            return val_loader()

    def names(task_names=None, **arguments):
        module, callback = Foreign(), TaskBalancing(Uniform(), **arguments)
        if task_names:
            module.task_names = task_names
        fit(module, callback, datamodule=Datamodule(), max_epochs=1, limit_train_batches=1)
        return callback.tasks

    assert names(["c", "b", "a"], tasks=["a", "c", "b"]) == ("a", "c", "b")
    assert names(["c", "b", "a"]) == ("c", "b", "a")
    assert names() == ("b", "c", "a")


def test_one_task_has_weight_one():
    module, callback = Foreign(tasks=("only",)), ConvergenceBalancer(**COBA)
    fit(module, callback)
    assert callback.history["weight"].tolist() == [[1.0]] * 4


def test_a_fixed_balancer_takes_its_weights_by_name_and_needs_no_losses():
    class Silent(Foreign):
        def validation_step(self, batch, batch_idx):
            pass

    module = Silent()
    fit(module, TaskBalancing(Fixed({"c": 1, "a": 2, "b": 5}), tasks=list(TASKS)), max_epochs=1)
    assert module.in_force[0][1] == pytest.approx([0.25, 0.625, 0.125])


def test_prior_and_floor():
    plain, shaped = Foreign(), Foreign()
    plain_callback = ConvergenceBalancer(**COBA, baseline="first_record")
    callback = ConvergenceBalancer(**COBA, baseline="first_record", prior={"a": 3.0}, min_weight=0.2)
    fit(plain, plain_callback)
    fit(shaped, callback)
    weights = callback.history["weight"]
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert (weights >= 0.2).all()
    assert weights[0].tolist() == pytest.approx([0.2 + 0.4 * 0.6, 0.2 + 0.4 * 0.2, 0.2 + 0.4 * 0.2])
    assert shaped.in_force[0][1] == pytest.approx(weights[0].tolist())  # already before the first record
    raw = replay(CoBa(**COBA), callback.history["loss"]) * torch.tensor([3.0, 1, 1])
    torch.testing.assert_close(weights, 0.4 * raw / raw.sum(dim=1, keepdim=True) + 0.2)


def test_combine_is_the_plain_mean_until_names_are_known():
    class Sharing(Foreign):
        in_sanity = None

        def validation_step(self, batch, batch_idx):
            losses = self.losses(batch)
            if self.trainer.sanity_checking and self.in_sanity is None:
                self.in_sanity = self.task_weights.combine(losses), sum(losses.values()) / 3
            self.log_dict({f"val_loss/{task}": loss for task, loss in losses.items()})

    module = Sharing()
    fit(module, ConvergenceBalancer(**COBA), max_epochs=1)
    torch.testing.assert_close(*module.in_sanity)


def test_a_module_with_weights_of_its_own_trains_without_a_callback():
    module = Foreign()
    module.task_weights = TaskWeights()
    fit(module, max_epochs=1)
    plain = Foreign(steers=False)
    fit(plain, max_epochs=1)
    torch.testing.assert_close(module.heads["a"].weight, plain.heads["a"].weight)
