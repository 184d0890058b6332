"""Each reader of what Lightning and torch keep to themselves, against what they do, so that an upgrade shows."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from foreign import Foreign, fit, val_loader
from lightning.fabric.strategies.launchers import subprocess_script as observers
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lightning_coba import lightning_internals
from lightning_coba.errors import UserError
from lightning_coba.lightning_internals import (
    after_each_batch,
    batch_progress,
    graph_kept_after_backward,
    hand_back_callbacks,
    hand_back_errors,
    is_accumulating,
    leave_signals_alone,
    loaded_batch_counts,
    logging_step,
    num_batches_done,
    ranks_of,
    retire_observer,
    sanity_metrics,
    starts_by_command_line,
    starts_by_spawning,
    summary_writer,
    uses_static_graph,
)


class PerLoader(Foreign):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        task = self.names[dataloader_idx]
        self.log(f"val_loss/{task}", self.losses(batch)[task], add_dataloader_idx=False)


def test_sanity_metrics_reads_what_lightning_hides_with_several_loaders():
    class Spy(Callback):
        def on_validation_end(self, trainer, pl_module):
            if trainer.sanity_checking:
                self.public, self.all = dict(trainer.callback_metrics), sanity_metrics(trainer)

    one, several = Spy(), Spy()
    loaders = [val_loader() for _ in range(3)]
    fit(Foreign(steers=False), one, max_epochs=1)
    fit(PerLoader(steers=False), several, val=loaders, max_epochs=1, num_sanity_val_steps=-1)
    assert one.all == one.public
    assert set(one.all) == {"val_loss/a", "val_loss/b", "val_loss/c"}
    assert set(several.all) == {"val_loss/a", "val_loss/b", "val_loss/c"}
    assert several.public == {}  # when this fails, the private helper can go


def test_logging_step_is_lightnings_own_label(tmp_path):
    class Spy(Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                steps.append(logging_step(trainer))

    steps = []
    logger = L.pytorch.loggers.CSVLogger(tmp_path)
    options = {"max_epochs": 2, "val_check_interval": 3, "accumulate_grad_batches": 2}
    fit(Foreign(steers=False), Spy(), logger=logger, log_every_n_steps=1, **options)
    lines = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("step")
    assert steps == [int(line.split(",")[column]) for line in lines[1:]]


def test_batches_are_counted_over_epochs_and_within_one():
    class Spy(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append((num_batches_done(trainer), batch_progress(trainer).current.completed))

    seen = []
    fit(Foreign(steers=False), Spy(), max_epochs=2)
    assert seen == [(number, number % 6) for number in range(12)]


def test_accumulating_is_a_batch_without_an_optimizer_step():
    class Spy(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append((is_accumulating(trainer), trainer.global_step))

    seen = []
    fit(Foreign(steers=False), Spy(), max_epochs=1, accumulate_grad_batches=4)
    assert seen == [(True, 0)] * 3 + [(False, 1), (True, 1), (False, 2)]  # the last window is a short one


def test_batch_counts_of_the_checkpoint_that_is_loaded_can_be_changed(tmp_path):
    class Counts(L.LightningDataModule):
        counts = None

        def state_dict(self):
            return {"here": True}

        def load_state_dict(self, state_dict):
            self.counts = [dict(counts) for counts in loaded_batch_counts(self.trainer)]
            for counts in loaded_batch_counts(self.trainer):
                counts |= dict.fromkeys(counts, 2)

        def train_dataloader(self):
            return val_loader()

        val_dataloader = train_dataloader

    class Start(Callback):
        def on_train_start(self, trainer, pl_module):
            starts.append(num_batches_done(trainer))

    starts = []
    path = tmp_path / "last.ckpt"
    fit(Foreign(steers=False), Start(), datamodule=Counts(), max_epochs=1).save_checkpoint(path)
    again = Counts()
    trainer = fit(Foreign(steers=False), Start(), datamodule=again, max_epochs=2, ckpt_path=path)
    assert [counts["completed"] for counts in again.counts] == [5, 5]
    assert starts == [0, 2]  # what was written is what Lightning read
    assert loaded_batch_counts(trainer) == []  # after the fit


def test_a_static_graph_is_an_option_of_ddp():
    def trainer(strategy):
        return SimpleNamespace(strategy=strategy)

    assert uses_static_graph(trainer(DDPStrategy(static_graph=True)))
    assert not uses_static_graph(trainer(DDPStrategy()))
    assert not uses_static_graph(trainer(SingleDeviceStrategy("cpu")))


@pytest.mark.parametrize(("strategy", "starts"), [("ddp", True), ("ddp_spawn", False), ("auto", False)])
def test_only_plain_ddp_starts_the_command_again(strategy, starts):
    devices = 1 if strategy == "auto" else 2
    trainer = L.Trainer(accelerator="cpu", devices=devices, strategy=strategy, logger=False)
    assert starts_by_command_line(trainer) == starts


def test_the_writer_inside_a_summary_writer_takes_summaries(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for summary in hparams({"lr": 0.1}, {"val_loss": 0}):
            summary_writer(writer).add_summary(summary)
    [file] = tmp_path.iterdir()
    assert b"val_loss" in file.read_bytes()


def test_the_option_to_free_a_graph_is_put_back():
    config = torch._functorch.config
    before = config.donated_buffer
    with pytest.raises(KeyError, match="off"), graph_kept_after_backward():
        raise KeyError("off" if config.donated_buffer is False else "on")
    assert config.donated_buffer is before is True
    with graph_kept_after_backward():
        with graph_kept_after_backward():
            pass
        assert config.donated_buffer is False  # what the outer one asked for
    assert config.donated_buffer is True


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_callback_of_forked_ranks_hands_back_what_rank_zero_held():
    class Counter(Callback):
        num_batches, taken = 0, None

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.num_batches += 1

        def handed_back(self):
            return {"rank": torch.tensor(rank_zero_only.rank), "num_batches": self.num_batches}

        def take_back(self, trainer, pl_module, state):
            self.taken = pl_module, state

    hand_back_callbacks()
    hand_back_callbacks()  # once is enough
    counter, module = Counter(), Foreign(steers=False)
    fit(module, counter, max_epochs=1, limit_val_batches=0, devices=2, strategy="ddp_fork")
    assert counter.num_batches == 0  # when this fails, Lightning hands back callbacks by itself
    assert counter.taken == (module, {"rank": torch.tensor(0), "num_batches": 3})


def test_a_trainer_leaves_sigterm_to_the_handler_that_was_there(tmp_path):
    heard = []

    class Strike(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", callbacks=[Strike()], **quiet)
        leave_signals_alone(trainer, heard.append)
        trainer.fit(Foreign(steers=False), val_loader(), val_loader())
        assert trainer.global_step > 2  # it went on
        assert heard == [signal.SIGTERM]
        pickle.dumps(trainer._signal_connector.__getstate__()["_sigterm_notifier_fn"])  # travels to spawned ranks
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_batch_is_over_after_the_hooks_and_the_pass_that_follow_it():
    order = []

    class Hooks(Callback):
        def on_train_start(self, trainer, pl_module):
            after_each_batch(trainer, lambda: order.append("over"))

        def on_validation_end(self, trainer, pl_module):
            order.append("validated")

    class Module(Foreign):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            order.append("batch")

    fit(Module(steers=False), Hooks(), max_epochs=1, val_check_interval=2, num_sanity_val_steps=0)
    assert order[:5] == ["batch", "over", "batch", "validated", "over"]


def test_an_observer_gives_this_process_time_and_can_be_retired(monkeypatch):
    killed = []
    monkeypatch.setattr(lightning_internals, "OBSERVER_PATIENCE", 0.5)
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(1)"])
    child.wait()
    trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    leave_signals_alone(trainer, killed.append)
    for retires in (True, False):
        subprocess_script._launch_process_observer([child])
        [observer] = [t for t in threading.enumerate() if isinstance(t, observers._ChildProcessObserver)]
        if retires:
            retire_observer()
        observer.join(10)
        assert killed == ([] if retires else [1])  # its exit code


@pytest.mark.parametrize(("strategy", "spawns"), [("ddp", False), ("ddp_spawn", True), ("auto", False)])
def test_ranks_are_the_processes_that_a_trainer_has_started(strategy, spawns):
    trainer = L.Trainer(accelerator="cpu", devices=1 if strategy == "auto" else 2, strategy=strategy, logger=False)
    assert starts_by_spawning(trainer) == spawns
    assert ranks_of(trainer) == []
    if strategy == "ddp":
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        trainer.strategy.launcher.procs = [child]
        assert ranks_of(trainer) == [child.pid]
        child.communicate(b"\n")
        assert ranks_of(trainer) == []


def test_the_best_checkpoint_is_written_through_the_method_that_ours_overrides(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(ModelCheckpoint, "_save_checkpoint", lambda self, trainer, path: written.append(path))
    checkpoint = ModelCheckpoint(tmp_path, "best", enable_version_counter=False)
    fit(Foreign(steers=False), checkpoint, max_epochs=1, enable_checkpointing=True)
    assert written == [str(tmp_path / "best.ckpt")]


class Refuses(Callback):
    def on_train_start(self, trainer, pl_module):
        raise UserError("the rank is at fault.", "Mend it.")


def test_an_error_of_a_spawned_rank_reaches_who_called_fit_as_what_it_is():
    hand_back_errors()
    with pytest.raises(UserError) as error:
        fit(Foreign(), Refuses(), strategy="ddp_spawn", devices=2, accelerator="cpu")
    assert (error.value.what, error.value.cure) == ("the rank is at fault.", "Mend it.")
