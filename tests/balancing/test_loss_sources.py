"""Where a pass's task losses come from, and what becomes of those that are missing or not finite."""

from typing import ClassVar

import lightning as L
import pytest
import torch
from foreign import SHORT_RUNS, TASKS, Foreign, fit, rows, train_loader, val_loader
from torch.utils.data import DataLoader

from lightning_coba import ConvergenceBalancer, TaskLosses, replay
from lightning_coba.balancers import CoBa
from lightning_coba.balancing.pass_losses import MonitoredKeys

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}


class PerLoader(Foreign):
    """One validation loader a task, logged in one of three ways."""

    style = "named"

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        task = self.names[dataloader_idx]
        loss = self.losses(batch)[task]
        if self.style == "named":
            self.log(f"val_loss/{task}", loss, add_dataloader_idx=False)
        elif self.style == "suffixed":
            self.log(f"val_loss/{task}", loss)
        else:
            self.log("val_loss", loss)

    def losses_on_loaders(self, loaders):
        return torch.stack([self.losses_on(loader)[i] for i, loader in enumerate(loaders)])


def loaders():
    return [DataLoader(rows(12 + 4 * i, seed=5 + i), batch_size=4) for i in range(3)]


@pytest.mark.parametrize("style", ["named", "suffixed", "unnamed"])
def test_several_loaders_with_the_baseline_from_the_sanity_pass(style):
    module = PerLoader()
    module.style = style
    callback = ConvergenceBalancer(**COBA, tasks=TASKS if style == "unnamed" else None)
    at_start = module.losses_on_loaders(loaders())
    fit(module, callback, val=loaders(), max_epochs=3)
    assert callback.tasks == TASKS
    history = callback.history
    torch.testing.assert_close(history["loss"] / history["ratio"], at_start.expand(3, 3), rtol=1e-5, atol=0)
    torch.testing.assert_close(history["loss"][-1], module.losses_on_loaders(loaders()), rtol=1e-5, atol=0)


def test_unnamed_loader_keys_need_names():
    module = PerLoader()
    module.style = "unnamed"
    with pytest.raises(RuntimeError, match=r"knows no task names.*val_loss/dataloader_idx_0.*tasks=\["):
        fit(module, ConvergenceBalancer(), val=loaders(), max_epochs=1)


class Returning(Foreign):
    """Logs nothing; ``validation_step`` returns the losses."""

    def __init__(self, form, **options):
        super().__init__(**options)
        self.form, self.task_names = form, self.names

    def validation_step(self, batch, batch_idx):
        losses = self.losses(batch)
        if self.form == "means":
            return losses
        if self.form == "floats":
            return {task: loss.item() for task, loss in losses.items()}
        counts = torch.tensor([len(batch[0]), 2 * len(batch[0]), len(batch[0])])
        return TaskLosses(torch.stack(list(losses.values())) * counts, counts)


def unequal():
    return DataLoader(rows(20, seed=1), batch_size=8)  # 8, 8, 4


def batch_losses(module):
    with torch.no_grad():
        return torch.stack([torch.stack(list(module.losses(batch).values())) for batch in unequal()]).double()


@pytest.mark.parametrize("form", ["means", "floats"])
def test_returned_means_weigh_batches_equally(form):
    module, callback = Returning(form), ConvergenceBalancer(**COBA)
    at_start = batch_losses(module).mean(dim=0)
    fit(module, callback, val=unequal(), max_epochs=3)
    history = callback.history
    torch.testing.assert_close(history["loss"][-1], batch_losses(module).mean(dim=0), rtol=1e-6, atol=0)
    torch.testing.assert_close(history["loss"][-1] / history["ratio"][-1], at_start, rtol=1e-6, atol=0)


def test_returned_sums_and_counts_weigh_elements_equally():
    module, callback = Returning("sums"), ConvergenceBalancer(**COBA)
    share = torch.tensor([[8.0], [8.0], [4.0]], dtype=torch.float64) / 20
    at_start = (batch_losses(module) * share).sum(dim=0)
    fit(module, callback, val=unequal(), max_epochs=3)
    history = callback.history
    at_end = (batch_losses(module) * share).sum(dim=0)
    torch.testing.assert_close(history["loss"][-1], at_end, rtol=1e-6, atol=0)
    torch.testing.assert_close(history["loss"][-1] / history["ratio"][-1], at_start, rtol=1e-6, atol=0)
    assert not torch.allclose(at_end, batch_losses(module).mean(dim=0), rtol=1e-3)


def test_returned_sums_need_names_only_when_they_steer():
    module = Returning("sums")
    del module.task_names
    with pytest.raises(RuntimeError, match=r"knows no task names.*Give .* tasks=\[...\], or the module .*`task_names`"):
        fit(module, ConvergenceBalancer(), max_epochs=1)
    assert len(module.in_force) == 6  # a whole epoch went by first


def test_returned_sums_of_another_length_are_refused_by_name():
    class Two(Returning):
        def validation_step(self, batch, batch_idx):
            return TaskLosses(torch.ones(1), torch.ones(1))

    with pytest.raises(ValueError, match=r"TaskLosses of 3 tasks, one each for a, b, c; got sums of shape \(1,\)"):
        fit(Two("sums"), ConvergenceBalancer(), max_epochs=1)


def test_step_and_epoch_twins_are_no_tasks():
    class Twins(Foreign):
        def validation_step(self, batch, batch_idx):
            for task, loss in self.losses(batch).items():
                self.log(f"val_loss/{task}", loss, on_step=True, on_epoch=True)

    callback = ConvergenceBalancer(**COBA)
    trainer = fit(Twins(), callback, max_epochs=1)
    assert "val_loss/a_epoch" in trainer.callback_metrics  # the twins are there
    assert callback.tasks == TASKS


def test_keys_are_learned_by_pattern():
    logged = dict.fromkeys(["val/qa/loss", "val/code/loss/dataloader_idx_1", "val_loss", "lr", "val/x"])
    assert MonitoredKeys("val/{task}/loss").learn(logged) == ["qa", "code"]
    twins = dict.fromkeys(["val_loss/a", "val_loss/a_step", "val_loss/b_step", "val_loss/a_epoch/dataloader_idx_0"])
    assert MonitoredKeys("val_loss/{task}").learn(twins) == ["a", "b_step"]
    with pytest.raises(ValueError, match=r"must hold '\{task\}' once"):
        MonitoredKeys("val_loss")


class Scripted(Foreign):
    """Replaces or leaves out the logged loss of some task in some pass: script = {(pass, task): value or None}."""

    script: ClassVar[dict] = {}

    def on_validation_epoch_start(self):
        self.passes = 0 if self.trainer.sanity_checking else getattr(self, "passes", 0) + 1

    def validation_step(self, batch, batch_idx):
        for task, loss in self.losses(batch).items():
            value = self.script.get((self.passes, task), loss)
            if value is not None:
                self.log(f"val_loss/{task}", torch.as_tensor(value, dtype=loss.dtype))


def scripted(script, **options):
    module, callback = Scripted(), ConvergenceBalancer(**COBA, **options)
    module.script = script
    trainer = fit(module, callback, max_epochs=5)
    return module, callback, trainer


def test_a_task_that_a_pass_did_not_log_is_absent_and_not_stale():
    _, callback, trainer = scripted({(2, "b"): None, (3, "b"): None})
    losses = callback.history["loss"]
    assert losses[:, 1].isnan().tolist() == [False, True, True, False, False]
    assert losses[:, [0, 2]].isfinite().all()
    assert trainer.callback_metrics["balance/ignored_records"] == 0  # absence is no fault
    check_replay(callback)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_losses_that_are_not_finite_are_masked_counted_and_do_not_poison(value):
    module, callback, trainer = scripted({(2, "b"): value, (4, "b"): value, (4, "c"): value})
    assert callback.history["loss"].isnan().tolist() == [
        [False] * 3,
        [False, True, False],
        [False] * 3,
        [False, True, True],
        [False] * 3,
    ]
    assert callback.history["weight"].isfinite().all()
    assert trainer.callback_metrics["balance/ignored_records"] == 3
    assert all(p.isfinite().all() for p in module.parameters())
    check_replay(callback)


def test_a_pass_without_any_finite_loss_keeps_the_weights():
    script = {(4, task): float("nan") for task in TASKS}
    _, callback, _ = scripted(script)
    weights = callback.history["weight"]
    assert weights[3].equal(weights[2])
    assert not weights[2].equal(weights[1])
    check_replay(callback)


def test_zero_is_a_legal_loss():
    _, callback, _ = scripted({(3, "a"): 0.0})
    assert callback.history["ratio"][2, 0] == 0
    check_replay(callback)


def test_a_task_without_a_baseline_takes_its_first_record():
    _, callback, _ = scripted({(0, "c"): float("nan")})
    history = callback.history
    assert history["ratio"][0, 2] == 1
    assert history["ratio"][0, 0] != 1


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_a_baseline_that_cannot_be_divided_by_names_its_task(value):
    with pytest.raises(ValueError, match=r"V\(0\) of task 'b' must be finite and > 0; got"):
        scripted({(0, "b"): value})


def test_a_given_baseline_is_used_by_name():
    _, callback, _ = scripted({}, baseline={"b": 4.0, "a": 2.0})
    history = callback.history
    torch.testing.assert_close(
        (history["loss"] / history["ratio"])[:, :2], torch.tensor([2.0, 4.0]).double().expand(5, 2)
    )
    assert history["ratio"][0, 2] == 1  # left out: its first record
    with pytest.raises(ValueError, match=r"`baseline` names \['x'\]; the tasks are: a, b, c"):
        scripted({}, baseline={"x": 1.0})
    with pytest.raises(ValueError, match=r"V\(0\) of task 'a' must be finite and > 0; got -1.0"):
        scripted({}, baseline={"a": -1.0})


def test_the_first_record_can_be_the_baseline():
    _, callback, _ = scripted({}, baseline="first_record")
    assert callback.history["ratio"][0].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"V\(0\) of task 'b' must be finite and > 0; got -1.0"):
        scripted({(1, "b"): -1.0}, baseline="first_record")


def check_replay(callback):
    history = callback.history
    first = callback.state_dict()["recorder"]["state"]["initial"]
    torch.testing.assert_close(replay(CoBa(**COBA), history["loss"], initial=first), history["weight"])


def test_no_sanity_pass_falls_back_to_the_first_record_and_says_so_once(said):
    callback = ConvergenceBalancer(**COBA)
    trainer = fit(Foreign(), callback, num_sanity_val_steps=0)
    assert trainer.num_sanity_val_steps == 0
    assert callback.history["ratio"][0].tolist() == [1, 1, 1]
    assert len([line for line in said if "V(0) is its first record" in line]) == 1
    assert len([line for line in said if "balances the tasks that it found logged: a, b, c" in line]) == 1


def test_fast_dev_run(said):
    callback = ConvergenceBalancer()
    fit(Foreign(), callback, fast_dev_run=True)
    assert callback.history["step"] == [1]
    assert callback.history["ratio"].tolist() == [[1, 1, 1]]
    assert len([line for line in said if "fast_dev_run" in line]) == 1


def test_a_datamodule_serves_as_well():
    class Data(L.LightningDataModule):
        def train_dataloader(self):
            return train_loader()

        def val_dataloader(self):
            return val_loader()

    callback = ConvergenceBalancer(**COBA)
    fit(Foreign(), callback, datamodule=Data())
    assert callback.history["step"] == [6, 12, 18, 24]
