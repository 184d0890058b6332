"""A system as small as one can be: search by held-out rows which features matter, then fit these alone.

It knows nothing of the package but Lightning's hooks, the protocol of systems, and what shows a simplex.
"""

import json
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_coba.data import StreamLoader
from lightning_coba.simplex import Simplex, Trajectory
from lightning_coba.systems.protocol import Result

FEATURES = ("age", "height", "noise")
TRUTH = torch.tensor([1.0, -2.0, 0.0])


class ToyData(L.LightningDataModule):
    """Rows whose target the last feature has nothing to do with."""

    def __init__(self, num_rows=40, batch_size=8, seed=0):
        super().__init__()
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed

    def _rows(self, split):
        generator = torch.Generator().manual_seed(self.seed * 10 + split)
        x = torch.randn(self.num_rows, len(FEATURES), generator=generator)
        noise = torch.randn(self.num_rows, generator=generator)
        return [(x[i], x[i] @ TRUTH + 0.3 * noise[i]) for i in range(self.num_rows)]

    def train_dataloader(self):
        return StreamLoader(self._rows(0), self.batch_size, self.seed, trainer=self.trainer)

    def val_dataloader(self):
        return DataLoader(self._rows(1), self.num_rows)

    def test_dataloader(self):
        return DataLoader(self._rows(2), self.num_rows)

    def summary(self):
        return f"{self.num_rows} rows of {', '.join(FEATURES)}"


class Regression(L.LightningModule):
    """What both phases do: a line, and how well it explains held-out rows."""

    def __init__(self, optimizer):
        super().__init__()
        self.line = nn.Linear(len(FEATURES), 1)
        self.dropout = nn.Dropout(0.1)
        self._optimizer = optimizer
        self.register_buffer("shares", torch.full((len(FEATURES),), 1 / len(FEATURES), dtype=torch.float64))

    def forward(self, x):
        return self.line(x * self.shares.float() * len(FEATURES)).squeeze(-1)

    def on_train_batch_start(self, batch, batch_idx):
        torch.manual_seed(self.trainer.global_step)  # of dropout: a resumed run draws what the run would have drawn

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.mse_loss(self(self.dropout(x)), y)
        self.log("train_loss", loss)
        return loss

    def _explained(self, batch):
        x, y = batch
        return 1 - (y - self(x)).square().mean() / y.var(correction=0)

    def validation_step(self, batch, batch_idx):
        self.log("val_explained", self._explained(batch))

    def test_step(self, batch, batch_idx):
        self.log("test_explained", self._explained(batch))

    def configure_optimizers(self):
        optimizer = self._optimizer(self.parameters())
        steps = self.trainer.estimated_stepping_batches  # sets the loaders up before a checkpoint's progress is known
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def objective(self):
        return "val_explained", "max"

    def results(self):
        return {"test_explained": Result(float(self.trainer.callback_metrics["test_explained"]), "max")}


class Search(Regression):
    """Move the shares of the features towards those that held-out rows ask for."""

    def __init__(self, optimizer, rate=0.5):
        super().__init__(optimizer)
        self.rate = rate
        self.trajectory = Trajectory(len(FEATURES), columns=("gradient", "weight"))

    def simplexes(self):
        return [Simplex("features", FEATURES, self.trajectory, thing="feature")]

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        x, y = batch
        with torch.enable_grad():
            shares = self.shares.float().requires_grad_()
            residual = y - self.line(x * shares * len(FEATURES)).squeeze(-1)
            [gradient] = torch.autograd.grad(residual.square().mean(), shares)
        if not self.trainer.sanity_checking and self.trainer.state.fn == "fit":
            self.shares.copy_(torch.softmax(self.shares.log() - self.rate * gradient.double(), dim=0))
            self.trajectory.append(self.trainer.global_step, {"gradient": gradient.double(), "weight": self.shares})

    def on_save_checkpoint(self, checkpoint):
        checkpoint["toy"] = self.trajectory.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.trajectory.load_state_dict(checkpoint["toy"], range(len(FEATURES)))

    def save_pretrained(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "selected.json").write_text(json.dumps(self.shares.tolist()))


class Retrain(Regression):
    """Fit the two features that a search found."""

    def __init__(self, optimizer, found):
        super().__init__(optimizer)
        shares = torch.tensor(json.loads((Path(found) / "selected.json").read_text()), dtype=torch.float64)
        self.kept = shares.topk(2).indices.tolist()
        self.shares.zero_()
        self.shares[self.kept] = 1 / 2

    def card(self):
        return {"kept": [FEATURES[i] for i in self.kept]}

    def figures(self, folder):
        from matplotlib.figure import Figure

        figure = Figure()
        figure.subplots().bar(FEATURES, self.line.weight[0].tolist())
        figure.savefig(Path(folder) / "line.png")

    def save_pretrained(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.save(self.line.state_dict(), Path(folder) / "line.pt")
