"""Signals of training steps: what a balancer is shown is what happened, and looking leaves no trace."""

import copy

import lightning as L
import pytest
import torch
from foreign import TASKS, Foreign, Stepping, fit, held_out, parameters, rows, train_loader
from lightning.pytorch.plugins import MixedPrecision
from spy import Spy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from lightning_coba import TaskBalancing, TaskLosses
from lightning_coba.balancers import FAMO, LBTW, MGDA, CoBa, GradNorm, MetaWeighting, PCGrad, Uniform

EVERYTHING = ("losses", "train_losses", "losses_after_step", "grad_norms", "gramian", "hypergradients")


class Adaptive(Stepping):
    """With a stateful optimizer, so that a wrong gradient shows."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Still(Stepping):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def spied(signals, module, **options):
    spy = Spy(signals)
    glue = {key: options.pop(key) for key in ("every_n_steps", "parameters", "held_out") if key in options}
    fit(module, TaskBalancing(spy, tasks=TASKS, **glue), **{"max_epochs": 2, **options})
    return spy


def trunk_gradients(module, batch):
    """Return the gradients ``[K, n]`` of the unweighted losses on the trunk."""
    shared = list(module.trunk.parameters())
    each = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in module.losses(batch).values()]
    return torch.stack([torch.cat([g.flatten() for g in gradients]) for gradients in each])


class PlainLoop:
    """What a run with uniform weights does, by hand: SGD with lr 0.05 on the mean of the losses."""

    def __init__(self, module, lr=0.05):
        self.module, self.optimizer = module, torch.optim.SGD(module.parameters(), lr=lr)
        self.losses, self.after, self.gradients = [], [], []

    def run(self, loader, epochs):
        for batch in [batch for _ in range(epochs) for batch in loader]:
            losses = torch.stack(list(self.module.losses(batch).values()))
            self.losses.append(losses.detach())
            self.gradients.append(trunk_gradients(self.module, batch))
            self.optimizer.zero_grad()
            losses.mean().backward()
            self.optimizer.step()
            with torch.no_grad():
                self.after.append(torch.stack(list(self.module.losses(batch).values())))
        return [torch.stack(values).double() for values in (self.losses, self.after, self.gradients)]


def test_signals_are_those_of_a_loop_by_hand():
    spy = spied(EVERYTHING[1:5], Stepping(), parameters="trunk")
    losses, after, gradients = PlainLoop(Stepping()).run(train_loader(), epochs=2)
    close = {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(spy.column("train_losses"), losses, **close)
    torch.testing.assert_close(spy.column("losses_after_step"), after, **close)
    torch.testing.assert_close(spy.column("grad_norms"), gradients.norm(dim=2), **close)
    torch.testing.assert_close(spy.column("gramian"), gradients @ gradients.mT, **close)
    assert [observation.step for observation in spy.seen] == list(range(1, 13))
    assert [observation.epoch for observation in spy.seen] == [0] * 6 + [1] * 6


@pytest.mark.parametrize("every", [1, 3])
def test_looking_changes_no_bit_of_the_run(every):
    spied_on, plain = Adaptive(dropout=0.3), Adaptive(dropout=0.3)
    for module, balancer in ((spied_on, Spy(EVERYTHING)), (plain, Uniform())):
        L.seed_everything(3, verbose=False)
        fit(module, TaskBalancing(balancer, tasks=TASKS, every_n_steps=every, held_out=held_out(), parameters="all"))
    assert torch.equal(parameters(spied_on), parameters(plain))


def test_only_the_steps_that_are_due_are_observed():
    spy = spied(("train_losses", "grad_norms"), Stepping(), parameters="trunk", every_n_steps=4)
    losses, _, gradients = PlainLoop(Stepping()).run(train_loader(), epochs=2)
    assert [observation.step for observation in spy.seen] == [4, 8, 12]
    torch.testing.assert_close(spy.column("train_losses"), losses[3::4], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(spy.column("grad_norms"), gradients[3::4].norm(dim=2), rtol=1e-5, atol=1e-7)


class Counting(Stepping):
    """Returns sums and counts, with as many rows a task as have a positive input; exact over a step."""

    def __init__(self, step_size=None, **options):
        super().__init__(**options)
        self.step_size = step_size

    def task_losses(self, batch):
        return TaskLosses(*self.sums_and_counts(batch))

    def training_step(self, batch, batch_idx):
        from lightning_coba.functional import StepTotals

        x, _ = rows(24).tensors
        step = x[batch_idx // (self.step_size // len(batch[0])) * self.step_size :][: self.step_size]
        totals = StepTotals.of((step[:, :3] > 0).sum(dim=0))
        loss = self.task_weights.combine(self.task_losses(batch), totals=totals)
        return loss * self.trainer.accumulate_grad_batches


@pytest.mark.parametrize("balancer", [None, LBTW(), FAMO(), GradNorm(), MetaWeighting()])
def test_accumulation_shows_the_same_step(balancer):
    seen, weights = [], []
    for batch_size, accumulate in ((8, 1), (4, 2), (2, 4)):
        chosen = balancer or Spy(EVERYTHING)
        module = Counting(step_size=8)
        callback = TaskBalancing(chosen, tasks=TASKS, held_out=held_out(), parameters="trunk")
        fit(module, callback, train=train_loader(batch_size), accumulate_grad_batches=accumulate, max_epochs=2)
        weights.append(callback.history["weight"])
        if balancer is None:
            seen.append({name: chosen.column(name) for name in EVERYTHING})
            chosen.seen.clear()
        seen.append({"parameters": parameters(module)})
    assert len(weights[0]) == 6
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-4, atol=1e-6)
    period = len(seen) // 3
    for index, values in enumerate(seen):
        for name, value in values.items():
            # A draw may hold no row that counts for its task: NaN in all three.
            torch.testing.assert_close(value, seen[index % period][name], rtol=2e-4, atol=2e-6, equal_nan=True)
            assert value.isfinite().float().mean() > 0.5


@pytest.mark.parametrize("kind", [Still, Stepping])
def test_the_second_forward_sees_the_dropout_of_the_first(kind):
    spy = spied(("train_losses", "losses_after_step"), kind(dropout=0.5))
    before, after = spy.column("train_losses"), spy.column("losses_after_step")
    if kind is Still:
        assert torch.equal(before, after)
    else:
        assert (before != after).any(dim=1).all()


def test_the_look_ahead_restores_parameters_bit_for_bit():
    module = Still()
    start = parameters(module).clone()
    fit(module, TaskBalancing(MetaWeighting(look_ahead_lr=0.7), tasks=TASKS, held_out=held_out(), parameters="all"))
    assert torch.equal(parameters(module), start)


def test_hypergradients_are_what_a_change_of_the_weights_does_to_held_out_losses():
    module = Still().double()
    data = {task: DataLoader([tuple(v.double() for v in row) for row in rows(12, seed=5)], 36) for task in TASKS}
    train = DataLoader([tuple(v.double() for v in rows(24)[i]) for i in range(8)], 8)
    spy = Spy(("hypergradients",), look_ahead_lr=0.1)
    callback = TaskBalancing(spy, tasks=TASKS, held_out=data, parameters="trunk")
    fit(module, callback, train=train, val=DataLoader(data["a"].dataset, 12), max_epochs=1)

    query = tuple(torch.stack(column) for column in zip(*data["a"].dataset, strict=True))
    gradients = trunk_gradients(module, next(iter(train)))
    start = torch.nn.utils.parameters_to_vector(module.trunk.parameters()).detach()

    def after(weights):
        moved = start - 0.1 * weights @ gradients
        torch.nn.utils.vector_to_parameters(moved, module.trunk.parameters())
        with torch.no_grad():
            return torch.stack(list(module.losses(query).values()))

    weights = torch.full((3,), 1 / 3, dtype=torch.float64)
    step = 1e-5 * torch.eye(3, dtype=torch.float64)
    expected = torch.stack([(after(weights + d) - after(weights - d)) / 2e-5 for d in step], dim=1)
    torch.testing.assert_close(spy.column("hypergradients")[0], expected, rtol=1e-6, atol=1e-9)


def test_starred_forms_take_held_out_losses():
    for balancer in (GradNorm(source="held_out"), FAMO(source="held_out"), LBTW(source="held_out")):
        callback = TaskBalancing(balancer, tasks=TASKS, held_out=held_out(), parameters="trunk", every_n_steps=2)
        fit(Stepping(), callback, max_epochs=2)
        reference = TaskBalancing(CoBa(), tasks=TASKS, held_out=held_out(), every_n_steps=2)
        fit(Stepping(), reference, max_epochs=2)
        # The same draws of the same stream: record 1 is taken at the same parameters whatever balances.
        assert torch.equal(callback.history["loss"][0], reference.history["loss"][0])
        assert callback.history["weight"].isfinite().all()


class TestRefusals:
    def refuse(self, match, balancer, module=None, error=ValueError, **options):
        glue = {key: options.pop(key) for key in ("parameters", "held_out", "every_n_steps") if key in options}
        with pytest.raises(error, match=match):
            fit(module or Stepping(), TaskBalancing(balancer, tasks=TASKS, **glue), max_epochs=1, **options)

    def test_a_module_without_blocks_must_name_its_shared_parameters(self):
        self.refuse("`parameters` must be given: Stepping has no transformer blocks", GradNorm())

    def test_a_pattern_that_matches_nothing(self):
        self.refuse("must match a trainable parameter.*trunk.0.weight", GradNorm(), parameters="encoder")

    def test_famo_needs_task_losses(self):
        self.refuse("(?s)FAMO needs the losses of a batch again.*def task_losses", FAMO(), Foreign())

    def test_starred_forms_need_held_out_rows(self):
        self.refuse("needs held-out rows", FAMO(source="held_out"))
        self.refuse("needs held-out rows", MetaWeighting())

    def test_a_step_without_combine(self):
        self.refuse(
            "LBTW works on the losses that training_step gives to `combine` and minimises",
            LBTW(),
            Foreign(steers=False),
            RuntimeError,
        )

    def test_sharded_parameters(self):
        class FSDPStrategy(L.pytorch.strategies.SingleDeviceStrategy):
            pass

        self.refuse(
            "GradNorm needs each task's gradient as a whole, and FSDPStrategy", GradNorm(), strategy=FSDPStrategy("cpu")
        )


def test_one_task_has_weight_one_and_nothing_is_measured(said):
    for balancer in (GradNorm(), FAMO(), MetaWeighting(), LBTW()):
        module = Stepping(tasks=("a",))
        callback = TaskBalancing(balancer, tasks=("a",), held_out=held_out(("a",)))
        fit(module, callback, max_epochs=1)
        assert (callback.history["weight"] == 1).all()
    assert len([line for line in said if "there is one task" in line]) == 4


class TestOddModules:
    def norms(self, module, **options):
        return spied(("train_losses", "grad_norms"), module, parameters="trunk", max_epochs=1, **options)

    def test_half_precision_masks_what_overflows_and_does_not_break_the_model(self):
        class Large(Stepping):
            def losses(self, batch):
                return {task: 300 * loss for task, loss in super().losses(batch).items()}

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=1e-6)

        for balancer in (MGDA(), PCGrad(), GradNorm()):
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=2)
            module = Large()
            which = "trunk" if isinstance(balancer, GradNorm) else None
            callback = TaskBalancing(balancer, tasks=TASKS, parameters=which)
            fit(module, callback, plugins=MixedPrecision("16-mixed", "cpu", scaler), max_epochs=4)
            assert parameters(module).isfinite().all()
            assert callback.history["weight"].isfinite().all()

    def test_nothing_is_kept_after_a_fit(self):
        module = Stepping()
        callback = TaskBalancing(GradNorm(), tasks=TASKS, parameters="trunk")
        fit(module, callback, max_epochs=1)
        assert not module.task_weights.listening
        fit(module, max_epochs=1)
        assert module.task_weights.kept == []
        copy.deepcopy(module)

    def test_nothing_is_kept_after_an_exception(self):
        class Failing(Stepping):
            def training_step(self, batch, batch_idx):
                loss = super().training_step(batch, batch_idx)
                return loss if batch_idx < 2 else loss / "nothing"

        module = Failing()
        with pytest.raises(TypeError):
            fit(module, TaskBalancing(GradNorm(), tasks=TASKS, parameters="trunk"), max_epochs=1)
        assert module.task_weights.kept == []

    @pytest.mark.filterwarnings("ignore:.*returned `None`")
    def test_a_skipped_batch_makes_no_trouble(self):
        class Skipping(Stepping):
            def training_step(self, batch, batch_idx):
                return None if batch_idx == 2 else super().training_step(batch, batch_idx)

        spy = self.norms(Skipping())
        assert [bool(o.present.all()) for o in spy.seen] == [True, True, False, True, True, True]

    def test_what_an_absent_entry_holds_does_not_matter(self):
        class Holes(Stepping):
            def training_step(self, batch, batch_idx):
                losses = torch.stack(list(self.losses(batch).values()))
                present = torch.tensor([True, batch_idx % 2 == 0, True])
                return self.task_weights.combine(torch.where(present, losses, torch.nan), present=present)

        spy = self.norms(Holes(), accumulate_grad_batches=2)
        assert spy.column("train_losses").isfinite().all()
        assert spy.column("grad_norms").isfinite().all()

    def test_a_second_combine_for_the_logs_is_not_heard(self):
        class Logging(Stepping):
            def training_step(self, batch, batch_idx):
                losses = self.losses(batch)
                self.log("hundredfold", self.task_weights.combine({t: 100 * v for t, v in losses.items()}))
                return self.task_weights.combine(losses)

        plain, logged = self.norms(Stepping()), self.norms(Logging())
        assert torch.equal(plain.column("train_losses"), logged.column("train_losses"))
        torch.testing.assert_close(plain.column("grad_norms"), logged.column("grad_norms"))

    def test_two_backward_passes_by_hand_add_up(self):
        class Manual(Stepping):
            automatic_optimization = False

            def training_step(self, batch, batch_idx):
                optimizer = self.optimizers()
                optimizer.zero_grad()
                losses = self.losses(batch)
                half = {t: v / 2 for t, v in losses.items()}
                first, second = self.task_weights.combine(half), self.task_weights.combine(half)
                self.manual_backward(first, retain_graph=True)
                self.manual_backward(second)
                optimizer.step()

        plain, manual = self.norms(Stepping()), self.norms(Manual())
        torch.testing.assert_close(plain.column("grad_norms"), manual.column("grad_norms"), rtol=1e-5, atol=1e-7)

    def test_parameters_that_thaw_are_looked_at_from_the_next_epoch_on(self):
        class Thawing(Stepping):
            def on_train_epoch_start(self):
                self.heads.requires_grad_(self.current_epoch > 0)

        gramians = []
        for parameters_of in ("trunk", "all"):
            module = Thawing()
            module.heads.requires_grad_(False)
            gramians.append(spied(("gramian",), module, parameters=parameters_of, max_epochs=3).column("gramian"))
        norms, norms_with_heads = (gramian.diagonal(dim1=1, dim2=2) for gramian in gramians)
        torch.testing.assert_close(norms[:6], norms_with_heads[:6])
        assert (norms_with_heads[-6:] > norms[-6:] * 1.01).all()

    def test_a_loss_of_zero_in_the_first_step_is_no_baseline(self):
        class Late(Stepping):
            def losses(self, batch):
                losses = super().losses(batch)
                return losses | {"a": losses["a"] * (self.global_step > 1)}

        callback = TaskBalancing(LBTW(), tasks=TASKS)
        fit(Late(), callback, max_epochs=1)
        assert callback.history["weight"].isfinite().all()

    def test_refusals(self):
        class Quasi(Stepping):
            def configure_optimizers(self):
                return torch.optim.LBFGS(self.parameters())

        class Present(Stepping):
            def training_step(self, batch, batch_idx):
                return self.task_weights.combine(self.losses(batch), normalize="present")

        class Reentrant(Stepping):
            def losses(self, batch):
                x, y = batch
                hidden = checkpoint(self.trunk, x.requires_grad_(), use_reentrant=True)
                return {t: (self.heads[t](hidden)[:, 0] - y[:, i]).square().mean() for i, t in enumerate(TASKS)}

        for module, error, match in (
            (Quasi(), ValueError, "LBFGS makes several"),
            (Present(), ValueError, "`combine.normalize` must be"),
            (Reentrant(), RuntimeError, "use_reentrant"),
        ):
            with pytest.raises(error, match=match):
                fit(module, TaskBalancing(GradNorm(), tasks=TASKS, parameters="trunk"), max_epochs=1)
