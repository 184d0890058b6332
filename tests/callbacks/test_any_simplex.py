"""A module that weighs objectives by itself, with no balancing callback, is shown like the tasks of a balancer."""

import io
import re

import lightning as L
import pytest
import torch
from foreign import QUIET, Foreign, train_loader, val_loader
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lightning_coba.callbacks import BalanceCSV, NotebookView, TaskProgressBar, TrajectoryImages
from lightning_coba.simplex import Simplex, Trajectory, notebook, read_balance

OBJECTIVES = ("accuracy", "size")


class WeighsObjectives(Foreign):
    """Learns the weights of two objectives as parameters, and records them in every step."""

    def __init__(self):
        super().__init__(steers=False)
        self.logits = nn.Parameter(torch.tensor([0.3, -0.3]))
        self.trajectory = Trajectory(2)

    def simplexes(self):
        return [Simplex("objectives", OBJECTIVES, self.trajectory, thing="objective", interval=1)]

    def training_step(self, batch, batch_idx):
        weights = self.logits.softmax(dim=0)
        self.trajectory.append(self.global_step + 1, {"weight": weights})
        size = sum(parameter.square().sum() for parameter in self.parameters())
        return weights @ torch.stack([super().training_step(batch, batch_idx), size])


def fit(*callbacks, module=None, **options):
    options = QUIET | {"max_steps": 6, "val_check_interval": 2, "log_every_n_steps": 1, **options}
    module = module or WeighsObjectives()
    L.Trainer(**options, callbacks=list(callbacks)).fit(module, train_loader(), val_loader())
    return module


def test_its_records_are_written_and_read(tmp_path):
    module = fit(BalanceCSV(tmp_path / "balance.csv"))
    table = read_balance(tmp_path)
    assert (table.thing, table.tasks) == ("objective", list(OBJECTIVES))
    assert table.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert table.weight.tolist() == module.trajectory.columns()["weight"].tolist()
    assert (table.weight[0] != table.weight[-1]).all()


def test_its_curves_are_logged_as_images(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(TrajectoryImages(3), logger=TensorBoardLogger(tmp_path, name="", version=""))
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["balance/objectives/weights"]  # it records no losses


@pytest.mark.parametrize("terminal", [True, False])
def test_its_weights_stand_in_the_line_and_in_the_table(terminal):
    out = io.StringIO()
    bar = TaskProgressBar(console_kwargs={"file": out, "force_terminal": terminal, "width": 100})
    try:
        fit(bar, enable_progress_bar=True)
    finally:
        import rich

        rich._console = None  # Lightning reconfigures the one that all share
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue()).replace("\r", "\n")
    last = written.split("validated")[-1]
    assert re.search(r"accuracy \d\.\d\dx +size \d\.\d\dx", last)
    if terminal:
        header = next(line for line in last.splitlines() if line.startswith("objective"))
        assert header.split() == ["objective", "weight", "change"]
        assert re.search(r"^size +\d\.\d\dx +[+-]0\.\d+", last, re.M)


def test_its_table_and_curves_are_drawn_in_a_notebook(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "NotebookOutput", lambda: type("Output", (), {"show": staticmethod(shown.append)}))
    fit(NotebookView())
    assert "<th>objective</th><th>weight</th>" in shown[-1]
    assert shown[-1].count("<img") == 1
