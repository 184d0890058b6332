from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coba.modules.task_weights import KeptLosses


class TaskGradients:
    """Each task's unweighted gradient on some parameters, summed over the micro-batches of one optimizer step.

    They are taken with ``autograd.grad`` before the backward pass of the weighted loss, so the parameters' own ``grad``
    and the hooks of data-parallel training see nothing of it. K tasks cost K backward passes, each only as deep as the
    deepest of the parameters.

    Args:
        parameters: that require a gradient.
        num_tasks: K.

    Attributes:
        rows: gradients ``[K, n]`` as they enter the parameters' ``grad`` where the weights are 1: with the factor K / P
            of ``combine``, the means over micro-batches and ranks, and whatever the module multiplied by. Float32 or
            wider: K times the memory of the parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], num_tasks: int) -> None:
        self.parameters = list(parameters)
        dtype = torch.promote_types(torch.float32, max((p.dtype for p in parameters), key=lambda d: d.itemsize))
        size = sum(p.numel() for p in self.parameters)
        self.rows = torch.zeros(num_tasks, size, dtype=dtype, device=self.parameters[0].device)
        self._scales = self.rows.new_zeros(2)  # sum of K / P, and number of summands
        self._reduced = False

    def clear(self) -> None:
        """Begin a new step."""
        self.rows.zero_()
        self._scales.zero_()
        self._reduced = False

    def add(self, kept: KeptLosses, loss: Tensor, loss_scale: float = 1.0) -> None:
        """Add the gradients of a micro-batch.

        Args:
            kept: the losses that ``combine`` kept, with their graph.
            loss: what is about to be differentiated.
            loss_scale: of a gradient scaler, contained in ``loss``; divided out in the wide dtype.
        """
        [upstream] = torch.autograd.grad(loss, kept.value, retain_graph=True, allow_unused=True)
        if upstream is None:
            return
        # One transfer; a task without rows would cost a backward pass of zeros.
        for task in kept.present.nonzero().squeeze(1).tolist():
            gradients = torch.autograd.grad(
                kept.means[task],
                self.parameters,
                grad_outputs=(upstream * kept.scale).to(kept.means.dtype),
                retain_graph=True,
                allow_unused=True,
            )
            self._add_row(task, gradients, loss_scale)
        self._scales += torch.stack([kept.scale.to(self._scales), torch.ones_like(self._scales[0])])

    def _add_row(self, task: int, gradients: Sequence[Tensor | None], loss_scale: float) -> None:
        start = 0
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                part = self.rows[task, start : start + parameter.numel()]
                part.add_(gradient.flatten().to(part.dtype), alpha=1 / loss_scale)
            start += parameter.numel()

    def reduce(self, strategy: Any) -> None:
        """Take the mean over ranks, as data-parallel training does with the parameters' ``grad``; once a step."""
        if self._reduced:
            return
        self.rows = strategy.reduce(self.rows, reduce_op="mean")
        self._scales = strategy.reduce(self._scales, reduce_op="mean")
        self._reduced = True

    @property
    def _scale(self) -> Tensor:
        return torch.where(self._scales[0] > 0, self._scales[0] / self._scales[1], 1.0)

    def norms(self) -> Tensor:
        """Return the Euclidean norms of the gradients of the tasks' losses themselves, ``[K]``: without K / P."""
        return torch.linalg.vector_norm(self.rows, dim=1) / self._scale

    def gramian(self) -> Tensor:
        """Return the inner products of the same gradients, ``[K, K]``."""
        return self.rows @ self.rows.T / self._scale**2

    def products(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Return the inner products of the same gradients with one more, ``[K]``; None stands for zeros."""
        pairs = zip(self.parameters, gradients, strict=True)
        flat = [(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs]
        return self.rows @ torch.cat(flat).to(self.rows) / self._scale

    def _combined(self, shares: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        total, start = shares.to(self.rows) @ self.rows, 0
        for parameter in self.parameters:
            part = total[start : start + parameter.numel()]
            yield parameter, part.view_as(parameter).to(parameter.dtype)
            start += parameter.numel()

    @torch.no_grad()
    def add_to_grads(self, shares: Tensor) -> None:
        """Add the sum of the rows, each times its share ``[K]``, to the parameters' ``grad``."""
        for parameter, part in self._combined(shares):
            parameter.grad = part.clone() if parameter.grad is None else parameter.grad.add_(part)

    @torch.no_grad()
    def descend(self, shares: Tensor, lr: float) -> None:
        """Take a step of gradient descent on the sum of the tasks' losses, each times its share ``[K]``."""
        for parameter, part in self._combined(shares / self._scale.to(shares)):
            parameter.sub_(part, alpha=lr)
