"""A balancer on held-out and training losses with a record after each validation pass, and what it is shown there."""

from dataclasses import dataclass
from typing import NamedTuple

import lightning as L
import pytest
import torch
from foreign import SHORT_RUNS, TASKS, Foreign, Stepping, fit, held_out, parameters, rows, train_loader
from spy import Spy
from torch.utils.data import ConcatDataset, DataLoader

from lightning_coba import TaskBalancing, TaskLosses, replay
from lightning_coba.balancers import Balancer, GradNorm
from lightning_coba.balancers.base import admitted

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
BOTH = ("losses", "train_losses")


class GapState(NamedTuple):
    record: int
    weights: torch.Tensor


@dataclass(frozen=True)
class Gap(Balancer):
    """More weight where the held-out loss is above the training loss."""

    cadence = "validation"

    @property
    def needs(self):
        return frozenset(BOTH)

    def init(self, num_tasks, initial=None, device=None):
        return GapState(0, torch.full((num_tasks,), 1 / num_tasks, dtype=torch.float64, device=device))

    def update(self, state, observation):
        gap = torch.where(observation.present, observation.losses - observation.train_losses, 0.0)
        state = GapState(state.record + 1, torch.softmax(gap, dim=0))
        return state, state.weights

    def admit(self, state, columns):
        return admitted(state, self.init(len(columns)), columns, per_task=("weights",))


class SpyOnPasses(Spy):
    cadence = "validation"


class Remembering(Foreign):
    """Keeps (optimizer step, losses) of every training batch."""

    def __init__(self, **options):
        super().__init__(**options)
        self.trained = []

    def losses(self, batch):
        losses = super().losses(batch)
        if self.training and self._trainer and self.trainer.training:
            self.trained.append((self.global_step, torch.stack(list(losses.values())).detach().double()))
        return losses


class Counting(Foreign):
    """Sums and counts; a row counts for task i where its i-th input is positive, so unequally."""

    task_names = TASKS

    def training_step(self, batch, batch_idx):
        return self.task_weights.combine(TaskLosses(*self.sums_and_counts(batch)))

    def validation_step(self, batch, batch_idx):
        return TaskLosses(*self.sums_and_counts(batch))


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"val_check_interval": 4}], ids=str)
def test_training_losses_are_the_means_of_all_steps_since_the_last_record(options):
    module, spy = Remembering(), SpyOnPasses(BOTH)
    callback = TaskBalancing(spy, tasks=TASKS)
    fit(module, callback, max_epochs=2, **options)
    assert len(spy.seen) == 2
    begin = 0
    for observation in spy.seen:
        between = torch.stack([losses for step, losses in module.trained if begin <= step < observation.step])
        torch.testing.assert_close(observation.train_losses, between.mean(dim=0), rtol=1e-6, atol=0)
        begin = observation.step
    assert callback.history["train_losses"].equal(spy.column("train_losses"))
    assert callback.losses_shown == "validation"
    assert callback.interval is None


def test_it_is_balanced_and_can_be_replayed():
    module, callback = Foreign(), TaskBalancing(Gap(), tasks=TASKS)
    fit(module, callback, max_epochs=4)
    history = callback.history
    assert history["step"] == [6, 12, 18, 24]
    torch.testing.assert_close(
        replay(Gap(), history["loss"], train_losses=history["train_losses"]), history["weight"], rtol=1e-12, atol=0
    )
    assert module.in_force[-1][1] == history["weight"][2].tolist()


def test_a_number_of_steps_is_obeyed_where_it_is_given():
    callback = TaskBalancing(Gap(), tasks=TASKS, every_n_steps=3, held_out=held_out())
    fit(Stepping(), callback, max_epochs=1)
    assert callback.history["step"] == [3, 6]


class KilledError(Exception):
    pass


class SaveAndKill(L.Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise KilledError


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("step", [3, 8, 10])
def test_a_run_that_was_killed_between_two_passes_resumes_exactly(step, tmp_path):
    def run(*callbacks, ckpt_path=None):
        module, callback = Counting(), TaskBalancing(Gap())
        train = DataLoader(ConcatDataset([rows(4)] * 6), batch_size=4)
        fit(module, callback, *callbacks, train=train, max_epochs=3, ckpt_path=ckpt_path)
        return parameters(module), callback.history

    whole = run()
    with pytest.raises(KilledError):
        run(SaveAndKill(tmp_path / "last.ckpt", step))
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored["callbacks"][TaskBalancing(Gap()).state_key]["train_totals"] is not None
    resumed = run(ckpt_path=tmp_path / "last.ckpt")
    assert resumed[0].equal(whole[0])
    for column in ("loss", "train_losses", "weight"):
        assert resumed[1][column].equal(whole[1][column]), column


class Report(L.Callback):
    """Leaves what a rank has seen in a file: the processes end with the fit."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        [callback] = [c for c in trainer.callbacks if isinstance(c, TaskBalancing)]
        seen = {"losses": callback.history["loss"], "train_losses": callback.history["train_losses"]}
        torch.save(seen, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


class Still(Counting):
    """So that one step of all rows and two of half of them are the same: the parameters stay."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_two_ranks_see_what_one_process_sees(tmp_path):
    for batch_size, options in ((24, {}), (12, {"devices": 2, "strategy": "ddp_spawn"})):
        callback = TaskBalancing(Gap())
        fit(Still(), callback, Report(tmp_path), train=train_loader(batch_size), max_epochs=2, **options)
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for key in alone:
        assert first[key].equal(second[key])
        torch.testing.assert_close(first[key], alone[key], rtol=1e-6, atol=0)
        assert first[key].isfinite().all()


@pytest.mark.parametrize("more", ["grad_norms", "losses_after_step", "gramian"])
def test_what_a_pass_cannot_bring_is_refused(more):
    with pytest.raises(ValueError, match=rf"`SpyOnPasses.cadence` must be None or 'steps'.*{more}.*`every_n_steps`"):
        TaskBalancing(SpyOnPasses((*BOTH, more)))
    TaskBalancing(SpyOnPasses((*BOTH, more)), every_n_steps=2)


def test_balancers_that_say_nothing_keep_their_cadence():
    assert TaskBalancing(Spy(BOTH)).interval == 1
    assert TaskBalancing(GradNorm(source="held_out")).interval == 1
    assert TaskBalancing(Spy(("losses",))).interval is None


def test_a_module_that_never_combines_is_refused():
    with pytest.raises(RuntimeError, match="Gap works on the losses that training_step gives to `combine`"):
        fit(Foreign(steers=False), TaskBalancing(Gap(), tasks=TASKS))
