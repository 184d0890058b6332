"""What is logged many keys at once is found where ``module.log`` would have put it."""

from types import SimpleNamespace

import pytest
import torch
from foreign import Foreign, fit
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBar

from lightning_coba.balancing.publish import is_log_step, publish
from lightning_coba.loggers import MetricsCSV


class Spy(Callback):
    """Keeps what is known after each batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        of = (trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics)
        bars = [bar.get_metrics(trainer, pl_module) for bar in (TQDMProgressBar(), RichProgressBar())]
        self.seen.append([{name: float(value) for name, value in dict(each).items()} for each in (*of, *bars)])


class Logs(Foreign):
    """Logs the same number twice: in Lightning's way, and in ours."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        loss, detail = outputs["loss"].detach(), torch.tensor(float(batch_idx))
        self.log("theirs", loss, prog_bar=True)
        self.log("their_detail", detail)
        publish(self.trainer, {"ours": loss, "our_detail": detail}, on_bar=("ours",))


@pytest.mark.parametrize("logs", [True, False])
def test_other_bars_and_logged_metrics_have_what_is_published(tmp_path, logs):
    spy = Spy()
    fit(Logs(steers=False), spy, max_epochs=1, log_every_n_steps=1, logger=MetricsCSV(tmp_path) if logs else False)
    callback, logged, on_bar, tqdm, rich = spy.seen[-1]
    for metrics in (callback, logged):
        assert metrics["ours"] == metrics["theirs"]
        assert metrics["our_detail"] == metrics["their_detail"] == 4
    for metrics in (on_bar, tqdm, rich):
        assert metrics["ours"] == metrics["theirs"]
        assert "our_detail" not in metrics


def test_log_steps_are_multiples_and_zero_is_never():
    def steps(every):
        return [step for step in range(1, 7) if is_log_step(SimpleNamespace(log_every_n_steps=every), step)]

    assert steps(1) == [1, 2, 3, 4, 5, 6]
    assert steps(3) == [3, 6]
    assert steps(0) == []
