import lightning as L
import torch
from torch import Tensor

from lightning_coba.balancing.held_out import HeldOutStream
from lightning_coba.balancing.task_gradients import TaskGradients
from lightning_coba.functional import undisturbed


def hypergradients(
    gradients: TaskGradients,
    weights: Tensor,
    lr: float,
    stream: HeldOutStream,
    draw: int,
    trainer: L.Trainer,
    module: L.LightningModule,
) -> Tensor:
    r"""Ask what the weights of a step would do to each task's held-out loss after it.

    Args:
        gradients: Gradients of the training losses, over all micro-batches and ranks.
        weights: Weights of the look-ahead step, ``[K]``.
        lr: :math:`\eta` of the look-ahead step, plain gradient descent.
        stream: Held-out rows.
        draw: Number of the mini-batch.
        trainer: The Trainer that fits.
        module: The module, whose parameters move and come back, bit for bit.

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
                    loss = stream.loss(task, indices, trainer, module)
                parts = torch.autograd.grad(loss.sums, gradients.parameters, allow_unused=True)
                products = trainer.strategy.reduce(gradients.products(parts), reduce_op="sum")
                count = trainer.strategy.reduce(loss.counts.detach().clone(), reduce_op="sum")
                rows.append(torch.where(count > 0, products.double() / count, torch.nan))
    finally:
        with torch.no_grad():
            for parameter, value in zip(gradients.parameters, before, strict=True):
                parameter.copy_(value)
    return -lr * torch.stack(rows)
