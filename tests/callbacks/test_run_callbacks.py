"""The callbacks of a run folder: the checkpoint to resume from, whole windows and balance.csv."""

import lightning as L
import pytest
import torch
from foreign import TASKS, Foreign, Stepping, held_out, train_loader, val_loader
from lightning.pytorch.loggers import Logger

from lightning_coba import ConvergenceBalancer
from lightning_coba.balancers import Uniform
from lightning_coba.balancing import TaskBalancing
from lightning_coba.callbacks import BalanceCSV, LastCheckpoint, WholeWindows
from lightning_coba.log_keys import BALANCE_COLUMNS
from lightning_coba.simplex import read_balance

pytestmark = pytest.mark.filterwarnings("ignore:ConvergenceBalancer. about", "ignore:.*never used")
COBA = {"window_records": 3, "warmup_records": 1}


@pytest.fixture
def trainer(tmp_path):
    def make(*callbacks, **options):
        return L.Trainer(
            **{
                "accelerator": "cpu",
                "devices": 1,
                "max_epochs": 2,
                "logger": False,
                "callbacks": list(callbacks),
                "enable_checkpointing": any(isinstance(c, LastCheckpoint) for c in callbacks),
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "default_root_dir": tmp_path,
                "log_every_n_steps": 1,
                **options,
            }
        )

    return make


def fit(trainer, module=None, ckpt_path=None):
    module = module or Foreign(steers=any(isinstance(c, TaskBalancing) for c in trainer.callbacks))
    trainer.fit(module, train_loader(), val_loader(), ckpt_path=ckpt_path)
    return module


BATCHES = len(train_loader())


# ------------------------------------------------------------------ LastCheckpoint


class Written(L.Callback):
    """Notes the step at which the file is found, and takes it away."""

    def __init__(self, path):
        self.path, self.steps = path, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.path.exists():
            self.steps.append(trainer.global_step)
            self.path.unlink()


class Saving(Logger):
    """Notes whether the checkpoint was there when it was told to save."""

    name = version = ""

    def __init__(self, path):
        super().__init__()
        self.path, self.saved = path, []

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, params, *args, **kwargs): ...

    def save(self):
        self.saved.append(self.path.exists())


def test_checkpoint_is_written_after_each_pass_but_not_the_sanity_pass(trainer, tmp_path):
    path = tmp_path / "deep" / "last.ckpt"
    seen = Written(path)
    run = trainer(seen, LastCheckpoint(path), val_check_interval=2, num_sanity_val_steps=-1)
    fit(run)
    assert seen.steps == list(range(2, 2 * BATCHES, 2))
    assert torch.load(path, weights_only=True)["global_step"] == run.global_step
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_checkpoint_is_not_written_inside_an_accumulation_window(trainer, tmp_path):
    path = tmp_path / "last.ckpt"
    written = []

    class Files(L.Callback):
        def on_validation_start(self, trainer, pl_module):
            path.unlink(missing_ok=True)

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx:
                written.append((batch_idx, path.exists()))

    options = {"accumulate_grad_batches": 2, "max_epochs": 1, "limit_train_batches": 6}
    assert BATCHES >= 6
    fit(trainer(Files(), LastCheckpoint(path), val_check_interval=3, num_sanity_val_steps=0, **options))
    # The pass after batch 3 is inside the second window, that after batch 6 ends the third.
    assert written == [(number, False) for number in (1, 2, 3, 4, 5)]
    assert torch.load(path, weights_only=True)["global_step"] == 3


def test_loggers_are_saved_first(trainer, tmp_path):
    path = tmp_path / "last.ckpt"
    logger = Saving(path)
    run = trainer(LastCheckpoint(path), logger=logger, max_epochs=1, num_sanity_val_steps=0)
    fit(run)
    assert False in logger.saved
    assert path.exists()


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"limit_val_batches": 0}])
def test_no_pass_no_checkpoint(trainer, tmp_path, options):
    fit(trainer(LastCheckpoint(tmp_path / "last.ckpt"), **options))
    assert not (tmp_path / "last.ckpt").exists()


def test_validating_by_itself_writes_no_checkpoint_and_leaves_balance_csv(trainer, tmp_path):
    (tmp_path / "balance.csv").write_text("a finished run's\n")
    callbacks = [TaskBalancing(Uniform()), BalanceCSV(tmp_path / "balance.csv"), LastCheckpoint(tmp_path / "last.ckpt")]
    trainer(*callbacks).validate(Foreign(), val_loader(), verbose=False)
    assert not (tmp_path / "last.ckpt").exists()
    assert (tmp_path / "balance.csv").read_text() == "a finished run's\n"


# ------------------------------------------------------------------ WholeWindows


class PassBatches(L.Callback):
    """Notes the number of training batches at each pass, and whether a window is open."""

    def __init__(self):
        self.at, self.open = [], []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.at.append(trainer.fit_loop.total_batch_idx + 1)
            self.open.append(trainer.fit_loop._should_accumulate())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"val_check_interval": 2, "accumulate_grad_batches": 2}, [2, 4, 6, 8, 10, 12]),
        ({"val_check_interval": 1, "accumulate_grad_batches": 2}, [2, 4, 6, 8, 10, 12]),
        ({"val_check_interval": 0.5, "accumulate_grad_batches": 2}, [4, 10]),
        ({"val_check_interval": 3, "accumulate_grad_batches": 1}, [3, 6, 9, 12]),
        ({"val_check_interval": 1.0, "accumulate_grad_batches": 4}, [6, 12]),
        # A window longer than the epoch: its end is the epoch's, or no pass would ever be made.
        ({"val_check_interval": 2, "accumulate_grad_batches": 16}, [6, 12]),
        ({"val_check_interval": 5, "accumulate_grad_batches": 4}, [6, 12]),
        ({"val_check_interval": 7, "accumulate_grad_batches": 2, "check_val_every_n_epoch": None}, [8]),
    ],
)
def test_passes_are_made_where_windows_end(trainer, options, expected):
    seen = PassBatches()
    fit(trainer(WholeWindows(), seen, limit_train_batches=6, max_epochs=2, **options))
    assert seen.at == expected
    assert not any(seen.open)


# ------------------------------------------------------------------ BalanceCSV


def test_file_grows_with_the_run_and_is_written_anew_on_resume(trainer, tmp_path):
    file, last = tmp_path / "deep" / "balance.csv", tmp_path / "last.ckpt"
    sizes = []

    class Sizes(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            sizes.append(len(file.read_text().splitlines()) if file.exists() else 0)

    options = {"val_check_interval": 2, "num_sanity_val_steps": -1}
    balancer = ConvergenceBalancer(**COBA)
    fit(trainer(balancer, BalanceCSV(file), Sizes(), LastCheckpoint(last), **options, max_epochs=2))
    whole = file.read_bytes()
    assert whole.decode().splitlines()[0] == ",".join(BALANCE_COLUMNS)
    assert sizes == [0, *(1 + len(TASKS) * t for t in range(1, len(sizes)))]
    table = read_balance(file)
    assert table.tasks == list(balancer.tasks)
    for column in ("loss", "ratio", "slope", "weight"):
        expected = balancer.history[column].numpy()
        assert (getattr(table, column) == expected).tolist() == (expected == expected).tolist()

    file.unlink()
    fit(trainer(ConvergenceBalancer(**COBA), BalanceCSV(file), LastCheckpoint(last), **options, max_epochs=1))
    short = file.read_bytes()
    assert whole.startswith(short)
    file.write_bytes(whole[:-7])  # rows that the checkpoint does not know, the last one half
    fit(trainer(ConvergenceBalancer(**COBA), BalanceCSV(file), **options, max_epochs=2), ckpt_path=last)
    assert file.read_bytes() == whole


def test_step_cadence_is_written_too(trainer, tmp_path):
    balancer = ConvergenceBalancer(every_n_steps=2, held_out=held_out(), **COBA)
    fit(trainer(balancer, BalanceCSV(tmp_path / "balance.csv"), max_epochs=1), Stepping())
    assert len(read_balance(tmp_path / "balance.csv").records) == BATCHES // 2


def test_a_trainer_that_never_logs_has_its_file_all_the_same(trainer, tmp_path):
    balancer = ConvergenceBalancer(every_n_steps=2, held_out=held_out(), **COBA)
    run = trainer(balancer, BalanceCSV(tmp_path / "balance.csv"), max_epochs=1, log_every_n_steps=0)
    fit(run, Stepping())
    assert len(read_balance(tmp_path / "balance.csv").records) == BATCHES // 2


class TwoWeights(Foreign):
    """Weighs its losses twice: there are two balancers to write."""

    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        return self.task_weights.combine(losses) + self.other_weights.combine(losses)


def test_every_balancer_has_a_file_and_the_first_file_is_that_of_the_default_attribute(trainer, tmp_path):
    file, last = tmp_path / "balance.csv", tmp_path / "last.ckpt"

    def balancers():
        return [TaskBalancing(Uniform(), attribute="other_weights"), ConvergenceBalancer(**COBA)]

    given = balancers()
    fit(trainer(*given, BalanceCSV(file), LastCheckpoint(last), max_epochs=2), TwoWeights())
    beside = tmp_path / "balance-other_weights.csv"
    for path, balancer in ((beside, given[0]), (file, given[1])):
        assert read_balance(path).weight.tolist() == balancer.history["weight"].tolist()
    whole = file.read_bytes(), beside.read_bytes()
    assert whole[0] != whole[1]
    file.unlink()
    beside.write_text("rows that the checkpoint does not know\n")
    fit(trainer(*balancers(), BalanceCSV(file), max_epochs=2), TwoWeights(), ckpt_path=last)
    assert (file.read_bytes(), beside.read_bytes()) == whole


def test_a_balancer_alone_has_the_first_file_whatever_its_attribute(trainer, tmp_path):
    class Other(Foreign):
        def training_step(self, batch, batch_idx):
            return self.other_weights.combine(self.losses(batch))

    balancer = TaskBalancing(Uniform(), attribute="other_weights")
    fit(trainer(balancer, BalanceCSV(tmp_path / "balance.csv"), max_epochs=1), Other())
    assert [path.name for path in tmp_path.glob("*.csv")] == ["balance.csv"]
    assert read_balance(tmp_path).tasks == list(TASKS)


def test_run_without_a_balancer_has_no_file(trainer, tmp_path):
    fit(trainer(BalanceCSV(tmp_path / "balance.csv"), max_epochs=1))
    assert not (tmp_path / "balance.csv").exists()
