"""KilledError and resumed: same weights, history, baseline and parameters as the run that was left alone."""

import warnings

import lightning as L
import pytest
import torch
from foreign import (
    QUIET,
    SHORT_RUNS,
    TASKS,
    Foreign,
    Stepping,
    fit,
    held_out,
    parameters,
    rows,
    train_loader,
    val_loader,
)
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch.utils.data import ConcatDataset, DataLoader

from lightning_coba import ConvergenceBalancer, TaskBalancing
from lightning_coba.balancers import CoBa, Uniform
from lightning_coba.balancing.held_out import HeldOutStream
from lightning_coba.callbacks import LastCheckpoint

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}


class KilledError(Exception):
    pass


class SaveAndKill(L.Callback):
    """Writes a checkpoint in a hook at an optimizer step, and kills the run ``later`` steps after it."""

    def __init__(self, path, hook, step, later=0):
        self.path, self.step, self.later = path, step, later
        setattr(self, hook, self.save)

    def save(self, trainer, *_):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)
            if not self.later:
                raise KilledError

    def on_train_batch_start(self, trainer, *_):
        if self.later and trainer.global_step == self.step + self.later:
            raise KilledError


def same_batches():
    """Six equal batches: where a plain loader stands in the epoch does not matter then."""
    return DataLoader(ConcatDataset([rows(4)] * 6), batch_size=4)


def by_validation(**options):
    return Foreign(), ConvergenceBalancer(**{**COBA, **options})


def by_steps(**options):
    return Stepping(), ConvergenceBalancer(**{**COBA, "every_n_steps": 2, "held_out": held_out(), **options})


def whole_and_resumed(make, path, hook, step, later=0, **options):
    """Return (module, callback) of a run left alone, and of one that was killed and resumed."""
    options = {"train": same_batches(), "max_epochs": 4, **options}
    whole = make()
    fit(*whole, **options)
    with pytest.raises(KilledError):
        fit(*make(), SaveAndKill(path, hook, step, later), **options)
    resumed = make()
    fit(*resumed, ckpt_path=path, **options)
    return whole, resumed


def check_same(whole, resumed, from_step):
    (module, callback), (module_2, callback_2) = whole, resumed
    assert parameters(module).equal(parameters(module_2))
    for column, values in callback.history.items():
        if isinstance(values, torch.Tensor):
            torch.testing.assert_close(callback_2.history[column], values, rtol=0, atol=0, equal_nan=True)
        else:
            assert callback_2.history[column] == values, column
    assert module_2.in_force == [entry for entry in module.in_force if entry[0] >= from_step]
    weights = {tuple(weights) for _, weights in module_2.in_force}
    assert len(weights) > 1  # something moved after the cut


@pytest.mark.parametrize(
    ("step", "later", "options"),
    [
        (6, 0, {}),
        (12, 4, {}),  # killed some steps after the checkpoint was written
        (9, 0, {"val_check_interval": 3}),
        (6, 0, {"accumulate_grad_batches": 2}),
        (4, 1, {"accumulate_grad_batches": 2, "val_check_interval": 2}),
        (8, 0, {"val_check_interval": 4, "check_val_every_n_epoch": None}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_validation_cadence_from_a_checkpoint_written_after_the_pass(tmp_path, step, later, options):
    whole, resumed = whole_and_resumed(
        by_validation, tmp_path / "last.ckpt", "on_validation_end", step, later, **options
    )
    check_same(whole, resumed, from_step=step)


@pytest.mark.parametrize(("step", "options"), [(6, {}), (5, {}), (8, {}), (4, {"accumulate_grad_batches": 2})], ids=str)
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_step_cadence_at_any_optimizer_step(tmp_path, step, options):
    options = {**options, "val_check_interval": 1.0}
    whole, resumed = whole_and_resumed(by_steps, tmp_path / "last.ckpt", "on_train_batch_end", step, **options)
    check_same(whole, resumed, from_step=step)


def checkpoint(path, make=by_validation, step=12):
    module, callback = make()
    with pytest.raises(KilledError):
        fit(module, callback, SaveAndKill(path, "on_validation_end", step))
    return path


def test_the_checkpoint_loads_with_weights_only(tmp_path):
    path = checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(path, weights_only=True)
    keys = [key for key in stored["callbacks"] if key.startswith("ConvergenceBalancer")]
    assert len(keys) == 1
    assert stored["callbacks"][keys[0]]["recorder"]["tasks"] == list(TASKS)
    assert not [key for key in stored["state_dict"] if "task_weights" in key]


@pytest.mark.parametrize("make", [by_validation, by_steps])
def test_the_baseline_is_not_measured_again(tmp_path, make, monkeypatch):
    path = checkpoint(tmp_path / "last.ckpt", make)
    passes = []
    measure = HeldOutStream.everything
    monkeypatch.setattr(HeldOutStream, "everything", lambda self: passes.append(1) or measure(self))
    module, callback = make()
    fit(module, callback, ckpt_path=path, max_epochs=3)
    module_2, callback_2 = make()
    fit(module_2, callback_2, max_epochs=3)
    assert len(passes) == (make is by_steps)  # of the run that started anew
    history, history_2 = callback.history, callback_2.history
    baseline, baseline_2 = history["loss"] / history["ratio"], history_2["loss"] / history_2["ratio"]
    torch.testing.assert_close(baseline[-1], baseline_2[0])


@pytest.mark.parametrize("make", [by_validation, by_steps])
def test_a_second_fit_continues_and_reset_starts_over(make):
    module, callback = make()
    fit(module, callback, max_epochs=2)
    first = callback.history
    baseline = (first["loss"] / first["ratio"])[0]
    weights = first["weight"][-1]
    module.in_force.clear()
    fit(module, callback, max_epochs=2)
    second = callback.history
    assert second["record"] == list(range(1, 2 * len(first["record"]) + 1))
    assert second["step"] == first["step"] * 2  # a new Trainer counts from 0 again
    torch.testing.assert_close((second["loss"] / second["ratio"])[-1], baseline)
    assert module.in_force[0] == (0, weights.tolist())  # already in the first step
    callback.reset()
    assert callback.history["record"] == []
    fit(module, callback, max_epochs=2)
    assert callback.history["step"] == first["step"]
    assert not torch.allclose(callback.history["loss"][0] / callback.history["ratio"][0], baseline, rtol=0.1)


def test_a_second_fit_of_the_same_trainer_continues():
    module, callback = by_validation()
    trainer = fit(module, callback, max_epochs=2)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, train_loader(), val_loader())
    assert callback.history["step"] == [6, 12, 18, 24]


def test_a_second_fit_with_a_new_module_and_no_sanity_pass():
    _, callback = by_validation()
    fit(Foreign(), callback, max_epochs=2)
    weights = callback.history["weight"][-1].tolist()
    module = Foreign()
    fit(module, callback, max_epochs=2, num_sanity_val_steps=0)
    assert module.in_force[0] == (0, weights)
    assert callback.history["record"] == [1, 2, 3, 4]


def test_a_second_fit_with_other_tasks_is_refused():
    callback = ConvergenceBalancer(**COBA)
    fit(Foreign(), callback, max_epochs=2)
    other = Foreign(tasks=("x", "y", "z"))
    other.task_names = other.names
    with pytest.raises(ValueError, match=r"records so far are of the tasks a, b, c; this fit has x, y, z.*reset"):
        fit(other, callback, max_epochs=2)


def test_another_order_or_other_tasks_are_refused(tmp_path):
    path = checkpoint(tmp_path / "last.ckpt")
    for tasks in (["b", "a", "c"], ["a", "b"], ["a", "b", "c", "d"]):
        module = Foreign()
        with pytest.raises(ValueError, match=rf"written with the tasks a, b, c; this run has {', '.join(tasks)}"):
            fit(module, ConvergenceBalancer(tasks=tasks, **COBA), ckpt_path=path)


@pytest.mark.parametrize("balancer", [CoBa(window_records=4, warmup_records=1), CoBa(3, 1, temperature=4.0), Uniform()])
def test_another_balancer_or_other_settings_are_refused(tmp_path, balancer):
    class Same(TaskBalancing):
        @property
        def state_key(self):
            return ConvergenceBalancer().state_key

    path = checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"written by CoBa\(window_records=3.*this run has"):
        fit(Foreign(), Same(balancer), ckpt_path=path)


def test_added_tasks_are_admitted_on_request(tmp_path):
    class Wide(Foreign):
        def losses(self, batch):
            return super().losses((batch[0], batch[1].repeat(1, 2)))

        def load_state_dict(self, state_dict, strict=True, assign=False):
            return super().load_state_dict(state_dict, strict=False)

        def on_load_checkpoint(self, checkpoint):
            checkpoint["optimizer_states"] = []

    path = checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(path, weights_only=True)
    names = ["a", "d", "b", "c"]
    module, callback = Wide(tasks=names), ConvergenceBalancer(tasks=names, strict_tasks=False, **COBA)
    fit(module, callback, ckpt_path=path, max_epochs=5)
    history = callback.history
    old = next(v for k, v in saved["callbacks"].items() if k.startswith("Conv"))["recorder"]["state"][
        "weights"
    ].tolist()
    assert module.in_force[0][1] == pytest.approx([old[0] * 0.75, 0.25, old[1] * 0.75, old[2] * 0.75])
    assert history["loss"][:, 1].isnan().tolist() == [True, True, False, False, False]
    assert history["ratio"][2, 1] == 1  # its own baseline: its first record
    assert history["weight"][2, 1].item() == pytest.approx(0.25)  # its own warm-up
    assert history["weight"].sum(dim=1)[2:].tolist() == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(
    ("step", "options", "lost"),
    [
        (3, {"val_check_interval": 3}, True),
        (2, {"val_check_interval": 3}, False),
        (6, {}, True),
        (5, {}, False),
        (6, {"check_val_every_n_epoch": 2}, False),
        (12, {"check_val_every_n_epoch": 2}, True),
        (8, {"val_check_interval": 4, "check_val_every_n_epoch": None}, True),
        (6, {"val_check_interval": 4, "check_val_every_n_epoch": None}, False),
        (2, {"val_check_interval": 4, "accumulate_grad_batches": 2}, True),
        (6, {"limit_val_batches": 0}, False),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_pass_that_the_checkpoint_lost_is_warned_of(tmp_path, step, options, lost):
    path = tmp_path / "last.ckpt"
    options = {"train": same_batches(), "max_epochs": 4, **options}
    whole, resumed = by_validation(tasks=TASKS), by_validation(tasks=TASKS)
    fit(*whole, **options)
    with pytest.raises(KilledError):
        fit(*by_validation(tasks=TASKS), SaveAndKill(path, "on_train_batch_end", step), **options)
    if lost:
        with pytest.warns(UserWarning, match="written just before a validation pass that was due"):
            fit(*resumed, ckpt_path=path, **options)
    else:
        fit(*resumed, ckpt_path=path, **options)  # any warning is an error
    expected = [s for s in whole[1].history["step"] if not (lost and s == step)]
    assert resumed[1].history["step"] == expected  # Lightning did not run it, or it was not lost


def test_the_warm_up_that_is_over_is_not_announced_again(tmp_path):
    path = tmp_path / "last.ckpt"
    settings = {"window_records": 3, "warmup_records": 3}
    with pytest.raises(KilledError):
        fit(*by_validation(**settings), SaveAndKill(path, "on_validation_end", 30), max_epochs=6)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*too few to balance")
        fit(*by_validation(**settings), ckpt_path=path, max_epochs=6)  # one record is to come, and it is enough


def test_learning_rate_finder_runs_before_any_record(tmp_path):
    class Tuned(Foreign):
        lr = 0.05

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    class EachEpoch(LearningRateFinder):  # as in Lightning's documentation
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                self.lr_find(trainer, pl_module)

    for finder in (LearningRateFinder, EachEpoch):
        module, callback = Tuned(), ConvergenceBalancer(**COBA)
        tuning = finder(num_training_steps=20, early_stop_threshold=None)
        fit(module, callback, tuning, default_root_dir=tmp_path)
        assert module.lr != 0.05  # it ran
        assert callback.history["step"] == [6, 12, 18, 24]
        fit(module, callback, max_epochs=1)
        assert len(callback.history["step"]) == 5  # not rewound to what the finder handed back


def test_tuner_runs_before_any_record(tmp_path):
    class Tuned(Foreign):
        lr = 0.05

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    module, callback = Tuned(), ConvergenceBalancer(**COBA)
    trainer = L.Trainer(**QUIET, callbacks=[callback], max_epochs=4, default_root_dir=tmp_path)
    found = Tuner(trainer).lr_find(module, train_loader(), val_loader(), num_training=8, early_stop_threshold=None)
    assert len(found.results["loss"]) == 8
    assert callback.history["step"] == []
    trainer.fit(module, train_loader(), val_loader())
    assert callback.history["step"] == [6, 12, 18, 24]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_resumed_fit_makes_no_second_record_of_one_step(tmp_path):
    """Passes every 2 batches, steps every 4: the pass inside the next window sees the step of the last record."""

    def run(max_steps, checkpoint=None, callbacks=()):
        callback = ConvergenceBalancer(**COBA)
        options = {"val_check_interval": 2, "accumulate_grad_batches": 4, "max_steps": max_steps, "max_epochs": -1}
        options |= {"enable_checkpointing": True, "default_root_dir": tmp_path / f"{max_steps}-{checkpoint is None}"}
        options |= {"train": train_loader(2), "ckpt_path": checkpoint}
        fit(Foreign(), callback, *callbacks, **options)
        return callback

    path = tmp_path / "last.ckpt"
    whole = run(3)
    run(1, callbacks=[LastCheckpoint(path)])
    assert run(3, checkpoint=path).history["step"] == whole.history["step"]


def test_other_cadence_than_the_checkpoint_s_is_refused():
    callback = ConvergenceBalancer(**COBA)
    fit(Foreign(), callback, max_epochs=3)
    other = ConvergenceBalancer(tasks=["a", "b", "c"], every_n_steps=2, held_out=held_out(), **COBA)
    other.load_state_dict(callback.state_dict())
    with pytest.raises(ValueError, match="every_n_steps=None; this run has every_n_steps=2"):
        fit(Stepping(), other, max_epochs=3)
