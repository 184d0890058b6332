"""The standard error of held-out losses: exact over batches, draws and ranks, NaN where the module gives no squares."""

import lightning as L
import pytest
import torch
from foreign import SHORT_RUNS, TASKS, Foreign, fit, held_out, rows, train_loader, val_loader
from spy import Spy

from lightning_coba import TaskBalancing, TaskLosses
from lightning_coba.balancing.held_out import HeldOutStream
from lightning_coba.functional import row_task_losses, standard_errors

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
K = len(TASKS)


class Rows(Foreign):
    """Returns sums, counts, squares and rows; a row counts for task i where its i-th input is positive."""

    task_names = TASKS
    squares = True

    def task_losses(self, batch):
        x, y = batch
        hidden = self.trunk(x)
        each = torch.stack([(self.heads[t](hidden)[:, 0] - y[:, i]).square() for i, t in enumerate(TASKS)], dim=1)
        # As many elements as a row's i-th input is large: rows weigh unequally.
        counts = (3 * x[:, :K]).clamp(min=0).ceil().long()
        tasks = torch.arange(K).expand(len(x), K)
        losses = row_task_losses((each * counts).flatten(), counts.flatten(), tasks.flatten(), K)
        return losses if self.squares else TaskLosses(losses.sums, losses.counts)

    def validation_step(self, batch, batch_idx):
        return self.task_losses(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def errors_by_hand(module, data, task):
    """Return the linearised standard error of a task's mean over rows, from each row by itself."""
    with torch.no_grad():
        parts = [module.double().task_losses((x[None].double(), y[None].double())) for x, y in data]
    sums = torch.stack([part.sums[task] for part in parts])
    counts = torch.stack([part.counts[task] for part in parts])
    sums, counts = sums[counts > 0].double(), counts[counts > 0].double()
    if len(sums) < 2:
        return torch.tensor(torch.nan, dtype=torch.float64)
    residuals = sums - sums.sum() / counts.sum() * counts
    return (len(sums) / (len(sums) - 1) * residuals.square().sum()).sqrt() / counts.sum()


def seen(module, **options):
    glue = {name: options.pop(name) for name in ("every_n_steps", "held_out") if name in options}
    spy = Spy(("losses",))
    fit(module, TaskBalancing(spy, tasks=TASKS, **glue), **{"max_epochs": 1, **options})
    return spy


@pytest.mark.parametrize("batch_size", [3, 20])
def test_a_validation_pass_has_the_error_over_all_its_rows(batch_size):
    spy = seen(Rows(), val=val_loader(batch_size))
    expected = torch.stack([errors_by_hand(Rows(), rows(20, seed=1), task) for task in range(K)])
    torch.testing.assert_close(spy.column("losses_se")[0], expected, rtol=1e-4, atol=0)


def test_a_draw_has_the_error_over_its_own_rows():
    data = held_out(num=12, batch_size=15)  # 5 rows of each task
    spy = seen(Rows(), every_n_steps=2, held_out=data)
    stream = HeldOutStream(data, TASKS, seed=0)
    for number, found in enumerate(spy.column("losses_se")):
        for task, drawn in stream.draw(number):
            own = [data[TASKS[task]].dataset[int(i)] for i in drawn]
            expected = errors_by_hand(Rows(), own, task)
            torch.testing.assert_close(found[task], expected, rtol=1e-4, atol=0, equal_nan=True)
    assert spy.column("losses_se").isfinite().any()


def test_without_squares_it_is_nan():
    module = Rows()
    module.squares = False
    assert seen(module).column("losses_se").isnan().all()
    assert seen(Foreign()).column("losses_se").isnan().all()  # logged keys


def test_one_batch_without_squares_leaves_its_tasks_unknown():
    class Once(Rows):
        def validation_step(self, batch, batch_idx):
            losses = self.task_losses(batch)
            if batch_idx == 1:  # of the first task alone
                first = torch.tensor([1, 0, 0])
                return TaskLosses(losses.sums * first, losses.counts * first)
            return losses

    [errors] = seen(Once()).column("losses_se")
    assert errors.isnan().tolist() == [True, False, False]


class Report(L.Callback):
    """Leaves what a rank has seen in a file: the processes end with the fit."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        callbacks = [c for c in trainer.callbacks if isinstance(c, TaskBalancing)]
        seen = torch.cat([c.balancer.column("losses_se") for c in callbacks])
        torch.save(seen, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


@pytest.mark.filterwarnings("ignore:.*never used `self.observer`", "ignore:.*never used `self.task_weights`")
def test_two_ranks_have_the_error_of_one_process(tmp_path):
    for batch_size, options in ((20, {}), (10, {"devices": 2, "strategy": "ddp_spawn"})):
        callbacks = (
            TaskBalancing(Spy(("losses",))),
            TaskBalancing(
                Spy(("losses",)), every_n_steps=1, held_out=held_out(num=12, batch_size=12), attribute="observer"
            ),
        )
        fit(
            Rows(), *callbacks, Report(tmp_path), train=train_loader(24), val=val_loader(batch_size), max_epochs=2,
            **options,
        )  # fmt: skip
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=0, equal_nan=True)
    assert first.isfinite().any(dim=1).all()


def test_it_is_the_functional_s():
    losses = Rows().task_losses(rows(20, seed=1).tensors)
    expected = torch.stack([errors_by_hand(Rows(), rows(20, seed=1), task) for task in range(K)])
    torch.testing.assert_close(standard_errors(losses).double(), expected, rtol=1e-3, atol=0)
