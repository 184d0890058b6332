"""Every balancer at work in a fit: it moves the weights, resumes exactly in the middle, can be replayed."""

import inspect

import pytest
import torch
from foreign import SHORT_RUNS, TASKS, Stepping, fit, held_out, parameters, train_loader
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_coba.balancers as package
from lightning_coba import TaskBalancing, replay
from lightning_coba.balancers import FAMO, LBTW, Balancer, CoBa, Fixed, GradNorm
from lightning_coba.balancers.base import MATRIX_SIGNALS

pytestmark = [
    pytest.mark.filterwarnings(SHORT_RUNS),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
]
SETTINGS = {
    "CoBa": [CoBa(window_records=4, warmup_records=1)],
    "Fixed": [Fixed([1, 2, 3])],
    "FAMO": [FAMO(), FAMO(source="held_out")],
    "GradNorm": [GradNorm(), GradNorm(source="held_out")],
    "LBTW": [LBTW(), LBTW(source="held_out"), LBTW(reset_each_epoch=True)],
}
if hasattr(package, "DWA"):
    SETTINGS["DWA"] = [package.DWA(block_records=3)]
CLASSES = [getattr(package, name) for name in package.__all__]
CLASSES = [c for c in CLASSES if inspect.isclass(c) and issubclass(c, Balancer) and not inspect.isabstract(c)]
METHODS = [
    pytest.param(balancer, id=f"{balancer.label}{number or ''}")
    for cls in CLASSES
    if cls.__name__ != "TokenMean"  # it weighs nothing
    for number, balancer in enumerate(SETTINGS.get(cls.__name__, []) or [cls()])
]
CONSTANT = ("Fixed", "Uniform")


class Adaptive(Stepping):
    """With dropout from the micro-batch's number, and an optimizer with a state."""

    def __init__(self):
        super().__init__(dropout=0.2)

    def seed_forward(self, micro_batch):
        torch.manual_seed(1000 + micro_batch)

    def on_train_batch_start(self, batch, batch_idx):
        self.seed_forward(self.trainer.fit_loop.epoch_loop.batch_progress.total.completed)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


def run(balancer, *callbacks, every_n_steps=1, **options):
    module = Adaptive()
    # Gradients of one layer are enough for norms; methods that combine gradients take all.
    which = None if balancer.needs & MATRIX_SIGNALS == {"gramian"} else "trunk"
    glue = {"every_n_steps": every_n_steps, "held_out": held_out(), "parameters": which}
    callback = TaskBalancing(balancer, tasks=TASKS, **glue)
    # Three steps an epoch: this loader resumes where an epoch ended.
    fit(module, callback, *callbacks, train=train_loader(8), **({"max_epochs": 6} | options))
    return module, callback


@pytest.mark.parametrize("balancer", METHODS)
def test_it_moves_the_weights_and_resumes_exactly(balancer, tmp_path):
    module, callback = run(balancer)
    history = callback.history
    assert history["step"] == list(range(1, 19))
    moved = (history["weight"] - history["weight"][0]).abs().max() > 1e-4
    assert moved == (type(balancer).__name__ not in CONSTANT)
    for steps in (3, 6, 15):
        saving = ModelCheckpoint(tmp_path / str(steps), every_n_train_steps=steps, save_top_k=-1, filename="{step}")
        run(balancer, saving, max_steps=steps, max_epochs=-1, enable_checkpointing=True)
        again, resumed = run(balancer, ckpt_path=str(tmp_path / str(steps) / f"step={steps}.ckpt"))
        assert torch.equal(parameters(again), parameters(module)), steps
        for column in ("loss", "weight"):
            assert torch.equal(resumed.history[column].nan_to_num(7.0), history[column].nan_to_num(7.0)), steps


@pytest.mark.parametrize("balancer", [m for m in METHODS if not m.values[0].needs & MATRIX_SIGNALS])
def test_the_history_replays_to_the_same_weights(balancer):
    _, callback = run(balancer, every_n_steps=2)
    history = callback.history
    signals = {name: history[name] for name in balancer.needs if name in history}
    shown = balancer.needs - signals.keys()  # in the column `loss`
    signals |= dict.fromkeys(shown, history["loss"])
    epochs = [(step - 1) // 3 for step in history["step"]]
    initial = (history["loss"] / history["ratio"])[0] if balancer.baseline_signal == "losses" else None
    weights = replay(balancer, signals.pop("losses", history["loss"]), initial=initial, epochs=epochs, **signals)
    torch.testing.assert_close(weights, history["weight"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("balancer", METHODS)
def test_every_fourth_step(balancer):
    _, callback = run(balancer, every_n_steps=4)
    assert callback.history["step"] == [4, 8, 12, 16]
    assert callback.history["weight"].isfinite().all()
