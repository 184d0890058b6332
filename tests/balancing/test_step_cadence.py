"""A held-out mini-batch every n optimizer steps: source, draws, baseline, and no trace left behind."""

import lightning as L
import pytest
import torch
from foreign import SHORT_RUNS, TASKS, Foreign, Stepping, fit, held_out, rows, train_loader, val_loader
from torch.utils.data import DataLoader, IterableDataset

from lightning_coba import ConvergenceBalancer, TaskBalancing, TaskLosses, replay
from lightning_coba.balancers import CoBa
from lightning_coba.balancing.held_out import HeldOutStream

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)


def balancer(**options):
    return ConvergenceBalancer(every_n_steps=2, held_out=held_out(), **options)


def test_records_defaults_and_what_is_printed(said):
    module, callback = Stepping(), balancer()
    trainer = fit(module, callback, max_epochs=4)
    assert callback.history["step"] == list(range(2, 25, 2))
    # B = 6 over 3 tasks = 2 rows a draw; 12 rows a task: M = 6 draws a pass.
    assert callback.balancer == CoBa(window_records=30, warmup_records=6)
    assert [line for line in said if "window_records=30, warmup_records=6" in line and "every 2 steps" in line]
    weights = callback.history["weight"]
    assert weights[5].tolist() != pytest.approx([1 / 3] * 3)
    assert weights[4].tolist() == pytest.approx([1 / 3] * 3)
    in_force = [[1 / 3] * 3] * 2 + [w for w in weights.tolist() for _ in range(2)]
    assert module.in_force == [(step, in_force[step]) for step in range(24)]
    assert trainer.callback_metrics["balance/weight/a"] == weights[-1, 0]


def test_given_settings_are_kept_and_three_is_the_least_pass():
    few = {task: DataLoader(rows(2, seed=7), batch_size=6) for task in TASKS}
    callback = ConvergenceBalancer(every_n_steps=1, held_out=few, temperature=2.0)
    fit(Stepping(), callback, max_epochs=1)
    assert callback.balancer == CoBa(window_records=15, warmup_records=3, temperature=2.0)
    callback = ConvergenceBalancer(every_n_steps=1, held_out=few, window_records=4, warmup_records=2)
    fit(Stepping(), callback, max_epochs=1)
    assert callback.balancer == CoBa(window_records=4, warmup_records=2)


def test_baseline_is_the_full_held_out_pass():
    module, callback = Stepping(), balancer()
    each = [module.losses_on(loader)[i] for i, loader in enumerate(held_out().values())]
    fit(module, callback, max_epochs=1)
    first = callback.history["loss"] / callback.history["ratio"]
    torch.testing.assert_close(first, torch.stack(each).expand(3, 3), rtol=1e-6, atol=0)


def test_a_record_is_the_loss_of_its_draw():
    class Frozen(Stepping):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    module, callback = Frozen(), balancer()
    fit(module, callback, max_epochs=2)
    stream = HeldOutStream(held_out(), TASKS, seed=0)
    data = list(held_out().values())
    for number, record in enumerate(callback.history["loss"]):
        drawn = dict(stream.draw(number))
        for task, indices in drawn.items():
            batch = torch.utils.data.default_collate([data[task].dataset[int(i)] for i in indices])
            expected = module.losses(batch)[TASKS[task]].double()
            torch.testing.assert_close(record[task], expected, rtol=1e-6, atol=0)


def test_draws_are_a_pure_function_of_seed_and_number():
    stream, again = (HeldOutStream(held_out(), TASKS, seed=3) for _ in range(2))
    order = [stream.draw(i) for i in range(12)]
    for number in (11, 0, 5):
        for (task, drawn), (task_again, drawn_again) in zip(order[number], again.draw(number), strict=True):
            assert task == task_again
            assert drawn.equal(drawn_again)
    other = HeldOutStream(held_out(), TASKS, seed=4).draw(0)
    assert any(not a.equal(b) for (_, a), (_, b) in zip(order[0], other, strict=True))
    for task in range(3):  # M draws show every row once, and so do the next M
        for cycle in (order[:6], order[6:]):
            assert torch.cat([draw[task][1] for draw in cycle]).sort().values.tolist() == list(range(12))


def test_loaders_of_unequal_length_and_batch_size():
    loaders = {
        "a": DataLoader(rows(5), batch_size=4),  # ceil(4 / 3) = 2 rows a draw: 3 draws
        "b": DataLoader(rows(12), batch_size=3),  # 1 row a draw: 12 draws
        "c": DataLoader(rows(9), batch_size=100),  # 34 rows a draw: 1 draw
    }
    stream = HeldOutStream(loaders, TASKS, seed=0)
    assert stream.num_draws == 12
    assert [len(indices) for _, indices in stream.draw(0)] == [2, 1, 34]
    seen = {task: torch.cat([i for t, i in stream.everything() if t == task]).tolist() for task in range(3)}
    assert seen == {0: list(range(5)), 1: list(range(12)), 2: list(range(9))}


@pytest.mark.filterwarnings("ignore:.*never used `self.task_weights`", "ignore:Found 1 module.s. in eval mode")
def test_training_flags_and_random_state_are_untouched():
    class Watching(Stepping):
        flags = ()

        def __init__(self):
            super().__init__(dropout=0.5)
            self.trunk[0].eval()  # somebody froze a submodule on purpose

        def task_losses(self, batch):
            assert not any(child.training for child in self.modules())
            assert not torch.is_grad_enabled()
            torch.rand(7)  # a module may well draw here
            return self.losses(batch)

        def on_train_batch_start(self, batch, batch_idx):
            self.flags += ((self.trunk[0].training, self.trunk[2].training, self.training),)
            self.draws = (*getattr(self, "draws", ()), torch.rand(1).item())

    def draws(*callbacks):
        module = Watching()
        L.seed_everything(1, verbose=False)
        # Lightning's own sanity pass sets the whole module to train afterwards, so there is none here.
        module.steers = False
        fit(module, *callbacks, max_epochs=2, num_sanity_val_steps=0, limit_val_batches=0)
        return module

    watched = draws(balancer())
    assert watched.flags == ((False, True, True),) * 12
    assert watched.draws == draws().draws


def test_a_datamodule_may_hold_the_held_out_loaders():
    class Data(L.LightningDataModule):
        task_names = TASKS

        def train_dataloader(self):
            return train_loader()

        def val_dataloader(self):
            return val_loader()

        def held_out_dataloaders(self):
            return held_out()

    callback, given = ConvergenceBalancer(every_n_steps=2), balancer()
    fit(Stepping(), callback, datamodule=Data(), max_epochs=2)
    fit(Stepping(), given, max_epochs=2)
    assert callback.tasks == TASKS
    assert callback.history["loss"].equal(given.history["loss"])


def test_sums_and_counts_are_accepted():
    class Sums(Stepping):
        def task_losses(self, batch):
            means = torch.stack(list(self.losses(batch).values()))
            return TaskLosses(means * len(batch[0]), torch.full((3,), len(batch[0])))

    sums, means = balancer(), balancer()
    fit(Sums(), sums, max_epochs=1)
    fit(Stepping(), means, max_epochs=1)
    torch.testing.assert_close(sums.history["loss"], means.history["loss"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", ["means", "sums"])
def test_a_draw_costs_one_pass_per_task_once_it_is_known_that_batches_cannot_be_mixed(form):
    """A collate_fn that says it may mix tasks is tried once: a dict of means does not tell the tasks apart."""

    def collate(batch):
        return torch.utils.data.default_collate(batch)

    collate.mixes_tasks = True

    class Counted(Stepping):
        def __init__(self):
            super().__init__()
            self.passes = []

        def task_losses(self, batch):
            self.passes.append(len(batch[0]))
            if form == "sums":
                return TaskLosses(*self.sums_and_counts(batch))
            return self.losses(batch)

    loaders = {task: DataLoader(rows(12, seed=i + 2), 6, collate_fn=collate) for i, task in enumerate(TASKS)}
    module = Counted()
    callback = ConvergenceBalancer(every_n_steps=2, held_out=loaders, baseline="first_record")
    fit(module, callback, max_epochs=1)
    assert callback.num_records == 3
    assert module.passes == ([6] * 3 if form == "sums" else [6, 2, 2, 2] + [2] * 6)


def test_accumulation_counts_optimizer_steps():
    module, callback = Stepping(), balancer()
    fit(module, callback, max_epochs=2, accumulate_grad_batches=2)
    assert callback.history["step"] == [2, 4, 6]
    weights = [[1 / 3] * 3, *callback.history["weight"].tolist()]
    assert module.in_force == [(batch // 2, weights[batch // 4]) for batch in range(12)]


def test_validation_passes_are_no_records():
    callback = ConvergenceBalancer(every_n_steps=4, held_out=held_out())
    fit(Stepping(), callback, max_epochs=2, val_check_interval=1)
    assert callback.history["step"] == [4, 8, 12]


def test_replay_of_the_history_gives_the_live_weights():
    callback = balancer()
    fit(Stepping(), callback, max_epochs=4)
    history = callback.history
    initial = history["loss"][0] / history["ratio"][0]
    replayed = replay(callback.balancer, history["loss"], initial=initial)
    torch.testing.assert_close(replayed, history["weight"], rtol=1e-9, atol=1e-12)


def test_fast_dev_run_takes_the_first_record_for_the_baseline(said):
    callback = ConvergenceBalancer(every_n_steps=1, held_out=held_out())
    fit(Stepping(), callback, fast_dev_run=True)
    assert callback.history["ratio"].tolist() == [[1, 1, 1]]
    assert len([line for line in said if "V(0) is its first record" in line]) == 1


class Endless(IterableDataset):
    def __iter__(self):
        yield from rows(4)


@pytest.mark.parametrize(
    "loaders",
    [
        {"a": DataLoader(Endless(), batch_size=2)},
        {"a": DataLoader(rows(4), batch_size=None)},
        {"a": DataLoader(rows(4).tensors[0][:0], batch_size=2)},
        {"a": rows(4)},
    ],
    ids=["iterable", "no batch size", "no rows", "no loader"],
)
def test_a_source_that_cannot_be_indexed_is_refused_by_task(loaders):
    everything = held_out() | loaders
    with pytest.raises(ValueError, match=r"map-style dataset with a batch_size.*rows are indexed.*The one for 'a' is"):
        fit(Stepping(), ConvergenceBalancer(every_n_steps=1, held_out=everything), max_epochs=1)


def test_a_task_without_a_loader_is_refused_by_name():
    with pytest.raises(ValueError, match=r"There is none for b, c"):
        fit(
            Stepping(),
            ConvergenceBalancer(tasks=TASKS, every_n_steps=1, held_out=held_out(("a",))),
            max_epochs=1,
        )


def test_a_module_without_task_losses_is_refused_before_training():
    module = Foreign()
    with pytest.raises(ValueError, match=r"Foreign has no `task_losses`. Add\n\n    def task_losses\(self, batch\):"):
        fit(module, balancer(), max_epochs=1)
    assert module.in_force == []


def test_no_held_out_rows_at_all_are_refused_before_training():
    module = Stepping()
    with pytest.raises(ValueError, match=r"needs held-out rows. Give `held_out=\{task: DataLoader\}`, or a datamodule"):
        fit(module, TaskBalancing(CoBa(), every_n_steps=2), max_epochs=1)
    assert module.in_force == []
