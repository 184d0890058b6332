"""What counts as diverged, when it is said, and that a guarded run is the run that it guards."""

import time

import lightning as L
import pytest
import torch
from foreign import SHORT_RUNS, Foreign, fit, parameters, train_loader
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_coba import ConvergenceBalancer, TaskLosses
from lightning_coba.callbacks import DivergenceGuard
from lightning_coba.errors import DivergedError

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}
TWO_RANKS = {"devices": 2, "strategy": "ddp_spawn"}


class Poisoned(Foreign):
    """Has a task whose training loss is not finite in some steps, which leave the weights as they were."""

    def __init__(self, steps, **options):
        super().__init__(**options)
        self.bad = set(steps)

    def losses(self, batch):
        losses = super().losses(batch)
        if self.training and self.global_step + 1 in self.bad:
            losses["b"] = losses["b"].detach() * torch.nan + losses["b"]
        return losses

    def on_before_optimizer_step(self, optimizer):
        if self.global_step + 1 in self.bad:
            optimizer.zero_grad()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_so_many_steps_in_a_row_without_a_finite_loss_stop_the_run_with_the_first_step_and_the_task(accumulate):
    module = Poisoned([2, 3, 5, 6, 7, 8])
    with pytest.raises(DivergedError, match=r"from step 5 on \(b\), for 3 .*optimizer\.lr.*gradient_clip_val") as error:
        fit(module, ConvergenceBalancer(**COBA), DivergenceGuard(), accumulate_grad_batches=accumulate)
    assert (error.value.step, error.value.tasks) == (5, ("b",))
    assert module.global_step == 7


def test_fewer_are_let_pass():
    module = Poisoned([2, 3, 5, 6])
    fit(module, ConvergenceBalancer(**COBA), DivergenceGuard())
    assert parameters(module).isfinite().all()


class Breaking(Foreign):
    """Its weights are not finite after a step."""

    def __init__(self, step):
        super().__init__(steers=False)
        self.step = step

    def on_before_optimizer_step(self, optimizer):
        if self.global_step + 1 == self.step:
            self.trunk[0].bias.grad.fill_(torch.nan)


@pytest.mark.parametrize("options", [{"val_check_interval": 1}, {"limit_val_batches": 0}])
def test_weights_that_are_not_finite_are_never_written(tmp_path, options):
    """Neither after a validation pass nor where a user's checkpoint is due at a training step."""
    saved = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    with pytest.raises(DivergedError, match=r"[0-9]+ of 8 trained tensors .*at step 4"):
        fit(Breaking(4), saved, DivergenceGuard(), enable_checkpointing=True, **options)
    written = {torch.load(file, weights_only=True)["global_step"] for file in tmp_path.glob("*.ckpt")}
    assert written == {1, 2, 3}


class Measuring(Foreign):
    """A task's validation loss is not finite in some passes; `absent`: it has no token then. Returned, not logged."""

    task_names = ("a", "b", "c")

    def __init__(self, passes, absent=False):
        super().__init__()
        self.passes, self.absent, self.number = set(passes), absent, 0

    def on_validation_start(self):
        self.number += not self.trainer.sanity_checking

    def validation_step(self, batch, batch_idx):
        sums, counts = self.sums_and_counts(batch)
        if self.number in self.passes:
            sums[1], counts[1] = (0.0, 0) if self.absent else (torch.nan, counts[1])
        return TaskLosses(sums, counts)


class Logging(Measuring):
    """The same, logged."""

    def validation_step(self, batch, batch_idx):
        losses = self.losses(batch)
        for task, loss in losses.items():
            if self.number in self.passes and task == "b":
                if self.absent:
                    continue
                loss = loss * torch.nan
            self.log(f"val_loss/{task}", loss)


@pytest.mark.parametrize("kind", [Measuring, Logging])
def test_a_validation_loss_that_was_finite_and_is_not_stops_the_run(kind):
    module = kind([2])
    with pytest.raises(DivergedError, match="validation loss of b is no longer finite at step 12") as error:
        fit(module, ConvergenceBalancer(**COBA), DivergenceGuard())
    assert (error.value.step, error.value.tasks) == (12, ("b",))


@pytest.mark.parametrize("kind", [Measuring, Logging])
def test_a_task_that_is_absent_from_a_pass_is_no_divergence(kind):
    fit(kind([2, 3], absent=True), ConvergenceBalancer(**COBA), DivergenceGuard())


@pytest.mark.parametrize("kind", [Measuring, Logging])
@pytest.mark.filterwarnings("ignore:.*held-out loss")
def test_a_validation_loss_that_never_was_finite_stops_the_run_at_its_end(kind):
    module = kind(range(10))
    with pytest.raises(DivergedError, match="validation loss of b was not finite in any pass") as error:
        fit(module, ConvergenceBalancer(**COBA), DivergenceGuard())
    assert error.value.tasks == ("b",)
    assert module.number == 4


def test_what_validation_has_shown_survives_a_resume(tmp_path):
    file = tmp_path / "last.ckpt"
    first = fit(Logging([]), ConvergenceBalancer(**COBA), DivergenceGuard(), max_epochs=2)
    first.save_checkpoint(file)
    with pytest.raises(DivergedError, match="b is no longer finite at step 18"):
        fit(Logging([1]), ConvergenceBalancer(**COBA), DivergenceGuard(), ckpt_path=file)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2, "val_check_interval": 2}])
def test_a_guarded_run_is_the_same_to_the_last_bit(options):
    runs = []
    for guards in ([], [DivergenceGuard()]):
        torch.manual_seed(3)
        balancer, module = ConvergenceBalancer(**COBA), Foreign(dropout=0.2)
        trainer = fit(module, balancer, *guards, **options)
        runs.append((parameters(module), balancer.history["weight"], torch.random.get_rng_state(), trainer))
    for plain, guarded in zip(*(run[:3] for run in runs), strict=True):
        assert torch.equal(plain, guarded)
    assert runs[0][3].callback_metrics.keys() == runs[1][3].callback_metrics.keys()


class OneRank(Poisoned):
    """Only the second rank sees what is wrong; its weights stay finite, so nothing but the guard can tell the first."""

    def losses(self, batch):
        if self.global_rank == 0:
            return Foreign.losses(self, batch)
        return super().losses(batch)


class Telling(DivergenceGuard):
    """Leaves what it raised in a file; the first rank that ends would take the other with it, and waits."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_batch_end(self, trainer, *arguments):
        self._told(trainer, super().on_train_batch_end, *arguments)

    def on_validation_end(self, trainer, *arguments):
        self._told(trainer, super().on_validation_end, *arguments)

    def _told(self, trainer, hook, *arguments):
        try:
            hook(trainer, *arguments)
        except DivergedError as error:
            (self.folder / f"{trainer.global_rank}.txt").write_text(f"{error.step} {error.tasks} {error}")
            until = time.monotonic() + 30
            while len([*self.folder.glob("*.txt")]) < trainer.world_size and time.monotonic() < until:
                time.sleep(0.05)
            raise


def test_both_ranks_stop_at_the_same_step_with_the_same_sentence(tmp_path):
    with pytest.raises(Exception, match="Training diverged"):
        fit(OneRank(range(3, 99), steers=False), Telling(tmp_path), log_every_n_steps=1, **TWO_RANKS)
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert "from step 3 on, for 3" in first


class OneRankValidation(Logging):
    def validation_step(self, batch, batch_idx):
        for task, loss in self.losses(batch).items():
            bad = self.number == 2 and self.global_rank == 1 and task == "b"
            self.log(f"val_loss/{task}", loss * torch.nan if bad else loss, sync_dist=False)


@pytest.mark.filterwarnings("ignore:.*sync_dist=True")
def test_a_loss_that_one_rank_logged_stops_both(tmp_path):
    module = OneRankValidation([])
    module.steers = False
    with pytest.raises(Exception, match="validation loss of b is no longer finite"):
        fit(module, Telling(tmp_path), **TWO_RANKS)
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_the_number_of_steps_is_a_number_of_steps(number):
    with pytest.raises(ValueError, match=r"`DivergenceGuard.num_bad_steps` must be an integer >= 1"):
        DivergenceGuard(number)


def test_a_module_without_tasks_or_validation_is_guarded_too():
    class Plain(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(6, 1)

        def training_step(self, batch, batch_idx):
            return self.line(batch[0]).square().mean() * (torch.inf if self.global_step >= 4 else 1.0)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = L.Trainer(
        callbacks=[DivergenceGuard(num_bad_steps=2)], max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    with pytest.raises(DivergedError, match="from step 5 on, for 2"):
        trainer.fit(Plain(), train_loader())
