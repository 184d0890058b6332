"""A spike costs one step; a training without one is the training without the guard."""

import pytest
import torch
from foreign import SHORT_RUNS, Foreign, fit, parameters, val_loader
from lightning.pytorch.loggers import CSVLogger

from lightning_coba import ConvergenceBalancer
from lightning_coba.callbacks import DivergenceGuard, LossSpikeGuard
from lightning_coba.log_keys import LOSS_SPIKES

pytestmark = pytest.mark.filterwarnings(SHORT_RUNS)
COBA = {"window_records": 3, "warmup_records": 1}
GUARD = {"window_steps": 8, "warmup_steps": 4, "every_n_steps": 3}
TWO_RANKS = {"devices": 2, "strategy": "ddp_spawn"}
ACTIONS = pytest.mark.parametrize("action", ["skip", "rollback"])


class Odd(Foreign):
    """Some batches have rows of another world; with `adam` its optimizer remembers."""

    def __init__(self, batches=(), size=1e4, adam=True, **options):
        super().__init__(**options)
        self.odd, self.size, self.adam = set(batches), size, adam

    def training_step(self, batch, batch_idx):
        self.steers = hasattr(self, "task_weights")
        x, y = batch
        number = self.trainer.fit_loop.total_batch_idx
        if number in self.odd:
            y = y + self.size
        return super().training_step((x, y), batch_idx)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05) if self.adam else super().configure_optimizers()


def loss_of(module):
    return module.eval().losses_on(val_loader())[:2].mean()


@ACTIONS
@pytest.mark.parametrize("size", [1e4, torch.nan])
def test_a_run_with_a_poisoned_batch_ends_better_with_the_guard(action, size):
    guard = LossSpikeGuard(action, **GUARD)
    guarded, plain, clean = Odd([17], size), Odd([17], 1e4, adam=False), Odd()
    fit(guarded, ConvergenceBalancer(**COBA), guard, max_epochs=6)
    fit(plain, ConvergenceBalancer(**COBA), max_epochs=6)
    fit(clean, ConvergenceBalancer(**COBA), max_epochs=6)
    assert guard.num_spikes == 1
    assert not loss_of(plain) < 10 * loss_of(guarded)
    assert loss_of(guarded) < 1.5 * loss_of(clean)


@ACTIONS
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}])
def test_without_a_spike_the_run_is_the_same_to_the_last_bit(action, options):
    runs = []
    for guards in ([], [LossSpikeGuard(action, **GUARD)]):
        torch.manual_seed(3)
        balancer, module = ConvergenceBalancer(**COBA), Odd(dropout=0.2)
        trainer = fit(module, balancer, *guards, **options)
        runs.append((parameters(module), balancer.history["weight"], torch.random.get_rng_state()))
        assert LOSS_SPIKES not in trainer.callback_metrics
    for plain, guarded in zip(*runs, strict=True):
        assert torch.equal(plain, guarded)


def test_a_skipped_step_leaves_weights_and_optimizer_as_they_were():
    class Watching(Odd):
        def on_train_batch_start(self, batch, batch_idx):
            self.seen = [*getattr(self, "seen", []), parameters(self).clone()]

    module = Watching([5])
    fit(module, LossSpikeGuard("skip", **GUARD), max_epochs=2)
    equal = [torch.equal(a, b) for a, b in zip(module.seen, module.seen[1:], strict=False)]
    assert [i for i, is_equal in enumerate(equal) if is_equal] == [5]
    [state] = {int(state["step"]) for state in module.optimizers().state.values()}
    assert state == 12 - 1


def test_rolled_back_it_is_at_the_last_good_copy():
    class Watching(Odd):
        def on_train_batch_start(self, batch, batch_idx):
            self.seen = [*getattr(self, "seen", []), parameters(self).clone()]

    module = Watching([5])
    fit(module, LossSpikeGuard("rollback", **GUARD), max_epochs=2)
    assert torch.equal(module.seen[6], module.seen[3])  # of the copies at steps 0 and 3
    [state] = {int(state["step"]) for state in module.optimizers().state.values()}
    assert state == 3 + 6


def test_the_spike_is_that_of_the_whole_step_under_accumulation():
    guard, module = LossSpikeGuard("skip", **GUARD), Odd([10])  # the first batch of the sixth step
    fit(module, guard, max_epochs=4, accumulate_grad_batches=2)
    assert guard.num_spikes == 1
    assert loss_of(module) < 10


@ACTIONS
def test_a_resumed_run_goes_on_exactly(action, tmp_path):
    file, odd = tmp_path / "last.ckpt", [8, 14]
    whole_guard, whole = LossSpikeGuard(action, **GUARD), Odd(odd)
    fit(whole, ConvergenceBalancer(**COBA), whole_guard, max_epochs=4)
    first = fit(Odd(odd), ConvergenceBalancer(**COBA), LossSpikeGuard(action, **GUARD), max_epochs=2)
    first.save_checkpoint(file)
    torch.load(file, weights_only=True)
    guard, resumed = LossSpikeGuard(action, **GUARD), Odd(odd)
    fit(resumed, ConvergenceBalancer(**COBA), guard, max_epochs=4, ckpt_path=file)
    assert guard.num_spikes == whole_guard.num_spikes == 2
    assert torch.equal(parameters(resumed), parameters(whole))


def test_each_event_is_counted_in_a_metric_and_said_in_a_line(tmp_path, monkeypatch):
    from lightning_coba.callbacks import loss_spike_guard

    said = []
    monkeypatch.setattr(loss_spike_guard, "rank_zero_info", said.append)
    logger = CSVLogger(tmp_path)
    fit(Odd([6, 13]), LossSpikeGuard(**GUARD), max_epochs=3, logger=logger, log_every_n_steps=1)
    assert [words in line for words, line in zip(("of step 7 ", "of step 14 "), said, strict=True)] == [True, True]
    lines = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index(LOSS_SPIKES)
    assert [value for line in lines[1:] if (value := line.split(",")[column])] == ["1.0", "2.0"]


def test_a_level_that_stays_becomes_the_new_one():
    guard = LossSpikeGuard(**GUARD)
    fit(Odd(range(12, 99), size=30.0, adam=False), guard, max_epochs=6)
    assert 1 <= guard.num_spikes <= GUARD["window_steps"] // 2 + 1


class OneRank(Odd):
    """The odd rows are those of one rank."""

    def training_step(self, batch, batch_idx):
        if self.global_rank == 0:
            self.odd = set()
        return super().training_step(batch, batch_idx)

    def on_train_end(self):
        guard = next(c for c in self.trainer.callbacks if isinstance(c, LossSpikeGuard))
        told = torch.cat([parameters(self), torch.tensor([float(guard.num_spikes)])])
        torch.save(told, f"{self.trainer.default_root_dir}/{self.global_rank}.pt")


def test_ranks_drop_the_same_step(tmp_path):
    fit(OneRank([7]), ConvergenceBalancer(**COBA), LossSpikeGuard("rollback", **GUARD), val=None, max_epochs=4,
        default_root_dir=tmp_path, limit_val_batches=0, **TWO_RANKS)  # fmt: skip
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second)
    assert first[-1] == 1


def test_losses_that_stay_not_finite_end_in_divergence():
    with pytest.raises(RuntimeError, match="from step 7 on, for 3"):
        fit(Odd(range(6, 99), torch.nan), LossSpikeGuard(**GUARD), DivergenceGuard())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"action": "ignore"}, r'`LossSpikeGuard.action` must be "skip" or "rollback"; got \'ignore\''),
        ({"threshold": 0}, r"threshold` must be a number > 0; got 0"),
        ({"every_n_steps": 0}, r"every_n_steps` must be an integer >= 1; got 0"),
        ({"window_steps": 4}, r"window_steps` must be an integer >= warmup_steps, 16; got 4"),
    ],
)
def test_arguments_outside_their_domain(arguments, said):
    with pytest.raises(ValueError, match=said):
        LossSpikeGuard(**arguments)


def test_a_module_that_optimizes_by_hand_is_refused():
    class ByHand(Foreign):
        def __init__(self):
            super().__init__(steers=False)
            self.automatic_optimization = False

    with pytest.raises(ValueError, match="ByHand uses manual optimization"):
        fit(ByHand(), LossSpikeGuard())
