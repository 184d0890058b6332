"""What only a CUDA device can show; run with `make test` where there is one."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_coba import ConvergenceBalancer, replay
from lightning_coba.balancers import CoBa, Observation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("form", ["paper", "mftcoder"])
def test_update_waits_for_no_device_and_equals_the_cpu(form):
    balancer = CoBa(window_records=8, warmup_records=3, form=form)
    losses = torch.rand(40, 5, dtype=torch.float64) + 0.5
    state = balancer.init(5, device="cuda")
    present = torch.ones(5, dtype=torch.bool, device="cuda")
    rows = losses.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        weights = []
        for t in range(len(rows)):
            state, w = balancer.update(state, Observation(step=t, present=present, losses=rows[t]))
            weights.append(w)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(torch.stack(weights).cpu(), replay(balancer, losses), atol=1e-10, rtol=0)


class TwoHeads(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in ("a", "b")})

    def losses(self, batch):
        return {task: (head(batch[0]) - batch[1]).square().mean() for task, head in self.heads.items()}

    def training_step(self, batch, batch_idx):
        return self.task_weights.combine(self.losses(batch))

    def validation_step(self, batch, batch_idx):
        for task, loss in self.losses(batch).items():
            self.log(f"val_loss/{task}", loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_drop_in_keeps_its_state_on_the_module_s_device():
    data = TensorDataset(torch.randn(32, 4), torch.randn(32, 1))
    balancer = ConvergenceBalancer()
    trainer = L.Trainer(
        max_epochs=6,
        accelerator="gpu",
        devices=1,
        callbacks=[balancer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    module = TwoHeads()
    trainer.fit(module, DataLoader(data, 8), DataLoader(data, 8))
    assert balancer.history["weight"].shape == (6, 2)
    assert balancer._recorder.state.ratios.is_cuda
