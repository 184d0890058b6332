from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor

from lightning_coba.balancing.held_out import HeldOutStream, undisturbed
from lightning_coba.balancing.task_gradients import TaskGradients


def hypergradients(
    gradients: TaskGradients,
    weights: Tensor,
    lr: float,
    stream: HeldOutStream,
    draw: int,
    trainer: L.Trainer,
    module: L.LightningModule,
    tasks: Sequence[str],
) -> Tensor:
    r"""Ask what the weights of a step would do to each task's held-out loss after it.

    Args:
        gradients: of the training losses, over all micro-batches and ranks.
        weights: of the look-ahead step, ``[K]``.
        lr: :math:`\eta` of the look-ahead step, plain gradient descent.
        stream: of held-out rows.
        draw: number of the mini-batch.
        trainer: that fits.
        module: whose parameters move and come back, bit for bit.
        tasks: names.

    Returns:
        ``[K, K]``: row i holds the derivatives of task i's held-out loss with respect to the weights; NaN where the
        draw holds no row of the task.
    """
    before = [parameter.detach().clone() for parameter in gradients.parameters]
    gradients.descend(weights, lr)
    rows = []
    try:
        with undisturbed(module), torch.enable_grad():
            for task, indices in stream.draw(draw):
                with trainer.precision_plugin.val_step_context():
                    total, count = stream.loss(task, indices, trainer, module, tasks[task])
                parts = torch.autograd.grad(total, gradients.parameters, allow_unused=True)
                products = trainer.strategy.reduce(gradients.products(parts), reduce_op="sum")
                count = trainer.strategy.reduce(count.detach().clone(), reduce_op="sum")
                rows.append(torch.where(count > 0, products.double() / count, torch.nan))
    finally:
        with torch.no_grad():
            for parameter, value in zip(gradients.parameters, before, strict=True):
                parameter.copy_(value)
    return -lr * torch.stack(rows)
