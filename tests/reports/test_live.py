"""The view of a notebook: drawn in place, until the run is over, in the process that trains or beside it."""

import json
import threading

import lightning as L
import pytest
from test_run_page import CURVES, SLOPES, WEIGHTS, write

from lightning_coba.reports import follow, live


class Cell:
    """An output that remembers what was shown: this is no notebook."""

    shown: list[str] = []  # noqa: RUF012

    def show(self, html):
        self.shown.append(html)


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.setattr(live, "NotebookOutput", Cell)
    monkeypatch.setattr(Cell, "shown", [])
    return Cell.shown


def test_finished_run_is_shown_once(shown, tmp_path):
    follow(write(tmp_path / "run", CURVES, weights=WEIGHTS, slopes=SLOPES))
    (html,) = shown
    assert html.count("<img") == 2
    assert "burnt out" in html
    assert "finished" in html


def test_a_run_is_followed_from_before_its_beginning_to_its_end(shown, tmp_path):
    folder = tmp_path / "run"
    watcher = threading.Thread(target=follow, args=(folder, 0.01), daemon=True)
    watcher.start()

    def wait_for(text):
        for _ in range(2000):
            if shown and text in shown[-1]:
                return
            watcher.join(0.01)
        raise AssertionError(f"never shown: {text}; last {shown[-1:]}")

    wait_for("there is no run yet")
    write(tmp_path / "written", CURVES, weights=WEIGHTS, status="running").rename(folder)
    wait_for("running")
    wait_for("<img")
    card = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(card | {"status": "failed", "error": "x"}))
    watcher.join(20)
    assert not watcher.is_alive()
    assert "failed" in shown[-1]


def test_interrupting_the_cell_ends_the_watch_alone(shown, tmp_path, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(live.time, "sleep", interrupt)
    follow(write(tmp_path / "run", CURVES, status="running"))
    assert len(shown) == 1


def test_arguments_and_a_missing_notebook_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`follow.every_n_seconds` must be > 0; got 0"):
        follow(tmp_path, every_n_seconds=0)
    monkeypatch.setitem(__import__("sys").modules, "IPython.display", None)
    with pytest.raises(ModuleNotFoundError, match=r"lightning-coba\[notebook\]"):
        follow(tmp_path)


@pytest.mark.filterwarnings("ignore:.*records are to come, and the weights")
def test_the_training_process_draws_after_each_pass(shown):
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from lightning_coba import ConvergenceBalancer
    from lightning_coba.callbacks import NotebookView

    class Two(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def losses(self, batch):
            each = (self.layer(batch[0]) - 1).square().mean(dim=0)
            return {"task0": each[0], "task1": each[1]}

        def training_step(self, batch, batch_idx):
            return self.task_weights.combine(torch.stack([*self.losses(batch).values()]))

        def validation_step(self, batch, batch_idx):
            for task, loss in self.losses(batch).items():
                self.log(f"val_loss/{task}", loss)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = DataLoader(TensorDataset(torch.randn(8, 2)), batch_size=4)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    balancer = ConvergenceBalancer(tasks=["task0", "task1"], window_records=3, warmup_records=1)
    trainer = L.Trainer(max_epochs=3, callbacks=[balancer, NotebookView(2)], enable_model_summary=False, **quiet)
    trainer.fit(Two(), data, data)
    assert len(shown) == 3  # the beginning, the second pass, the end
    assert "Training has begun" in shown[0]
    assert "Step 4" in shown[1]
    assert shown[2].count("<img") == 2
    assert "task1" in shown[2]
    with pytest.raises(ValueError, match=r"`NotebookView.every_n_validations` must be >= 1"):
        NotebookView(0)
