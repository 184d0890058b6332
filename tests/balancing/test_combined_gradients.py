"""Methods on gradients act on the very step: the update is torchjd's own aggregation of the tasks' gradients."""

import pytest
import torch
from foreign import TASKS, Stepping, fit, parameters, train_loader
from torchjd import aggregation

from lightning_coba import TaskBalancing, TaskLosses
from lightning_coba.balancers import IMTLG, MGDA, UPGrad
from lightning_coba.functional import StepTotals

LR = 0.05
RULES = {
    "MGDA": (MGDA(), aggregation.MGDA()),
    "IMTLG": (IMTLG(), aggregation.IMTLG()),
    "UPGrad": (UPGrad(), aggregation.UPGrad()),
}


class Wide(Stepping):
    """In float64, where Gramians have digits to spare."""

    def __init__(self):
        super().__init__()
        self.double()

    def losses(self, batch):
        return super().losses(tuple(values.double() for values in batch))


def by_hand(rule, loader, epochs, clip=None):
    module = Wide()
    weights = list(module.parameters())
    for batch in [batch for _ in range(epochs) for batch in loader]:
        each = [torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
                for loss in module.losses(batch).values()]  # fmt: skip
        jacobian = torch.stack([torch.cat([g.flatten() for g in gradients]) for gradients in each])
        gramian = jacobian @ jacobian.T
        shares = rule.gramian_weighting(gramian / gramian.diagonal().mean())
        total = (shares / shares.abs().sum()) @ jacobian
        if clip is not None:
            total = total * min(1.0, clip / (float(total.norm()) + 1e-6))
        start = 0
        for parameter in weights:
            parameter.data -= LR * total[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
    return parameters(module)


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("name", RULES)
def test_the_update_is_the_aggregated_gradient(name, clip):
    ours, theirs = RULES[name]
    module = Wide()
    fit(module, TaskBalancing(ours, tasks=TASKS), max_epochs=2, gradient_clip_val=clip)
    expected = by_hand(theirs, train_loader(), 2, clip)
    torch.testing.assert_close(parameters(module), expected, rtol=1e-7, atol=1e-9)
    assert not torch.allclose(parameters(Wide()), expected, atol=1e-3)


class Accumulating(Wide):
    """Exact means over the 8 rows of a step, however they are cut into micro-batches."""

    def training_step(self, batch, batch_idx):
        x, y = (values.double() for values in batch)
        hidden = self.trunk(x)
        each = torch.stack([(self.heads[t](hidden)[:, 0] - y[:, i]).square() for i, t in enumerate(TASKS)])
        losses = TaskLosses(each.sum(dim=1), torch.full((3,), len(x)))
        loss = self.task_weights.combine(losses, totals=StepTotals.of(torch.full((3,), 8)))
        return loss * self.trainer.accumulate_grad_batches


def test_accumulated_gradients_are_combined_once_a_step():
    results = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        module = Accumulating()
        callback = TaskBalancing(MGDA(), tasks=TASKS)
        fit(module, callback, train=train_loader(batch_size), accumulate_grad_batches=accumulate, max_epochs=2)
        results.append(parameters(module))
        assert callback.history["step"] == list(range(1, 7))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(results[0], by_hand(aggregation.MGDA(), train_loader(8), 2), rtol=1e-7, atol=1e-9)


def test_other_terms_of_the_loss_are_left_alone():
    class Regularised(Wide):
        def training_step(self, batch, batch_idx):
            return 2 * super().training_step(batch, batch_idx) + sum(p.square().sum() for p in self.trunk.parameters())

    plain, ours = Regularised(), Regularised()

    fit(ours, TaskBalancing(MGDA(), tasks=TASKS), train=train_loader(24), max_epochs=1)
    batch = next(iter(train_loader(24)))
    weights = list(plain.parameters())
    each = [
        torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        for loss in plain.losses(batch).values()
    ]
    jacobian = torch.stack([torch.cat([g.flatten() for g in gradients]) for gradients in each])
    shares = aggregation.MGDA().gramian_weighting(jacobian @ jacobian.T / (jacobian @ jacobian.T).diagonal().mean())
    penalty = torch.cat([2 * p.detach().flatten() * (n.startswith("trunk")) for n, p in plain.named_parameters()])
    expected = parameters(plain) - LR * (2 * shares @ jacobian + penalty)
    torch.testing.assert_close(parameters(ours), expected, rtol=1e-9, atol=1e-12)
