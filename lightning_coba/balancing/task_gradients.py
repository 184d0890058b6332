from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coba.balancing.task_weights import KeptLosses
from lightning_coba.errors import UserError


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
        self._used = [False] * len(self.parameters)
        self.complete = False

    def clear(self) -> None:
        """Begin a new step."""
        self.rows.zero_()
        self._scales.zero_()
        self._used = [False] * len(self.parameters)
        self.complete = False

    @property
    def found(self) -> bool:
        """Whether any parameter has had a gradient in this step."""
        return any(self._used)

    def add(self, kept: KeptLosses, upstream: Tensor, loss_scale: float = 1.0) -> bool:
        """Add the gradients of a micro-batch; return whether there is a task in it.

        Args:
            kept: the losses that ``combine`` kept, with their graph.
            upstream: derivative of what is about to be differentiated with respect to ``kept.value``.
            loss_scale: of a gradient scaler, contained in ``upstream``; divided out in the wide dtype.

        Raises:
            ValueError: if ``combine`` divided by the present weights: its gradient is not linear in the weights.
        """
        if kept.normalize != "step":
            raise UserError(
                f'`combine.normalize` must be "step" for a balancer on gradients; got {kept.normalize!r}.',
                "Leave it out.",
            )
        # One transfer; a task without rows would cost a backward pass of zeros.
        tasks = kept.present.nonzero().squeeze(1).tolist()
        # The size that a gradient has in the weighted loss: K times larger it could leave the range of half precision.
        share = 1 / len(self.rows)
        trained = [i for i, parameter in enumerate(self.parameters) if parameter.requires_grad]
        for task in tasks:
            gradients = torch.autograd.grad(
                kept.means[task],
                [self.parameters[i] for i in trained],
                grad_outputs=(upstream * kept.scale * share).to(kept.means.dtype),
                retain_graph=True,
                allow_unused=True,
            )
            self._add_row(task, dict(zip(trained, gradients, strict=True)), 1 / (loss_scale * share))
        if tasks:
            self._scales += torch.stack([kept.scale.to(self._scales), torch.ones_like(self._scales[0])])
        return bool(tasks)

    def _add_row(self, task: int, gradients: Mapping[int, Tensor | None], factor: float) -> None:
        start = 0
        for index, parameter in enumerate(self.parameters):
            gradient = gradients.get(index)
            if gradient is not None:
                part = self.rows[task, start : start + parameter.numel()]
                part.add_(gradient.flatten().to(part.dtype), alpha=factor)
                self._used[index] = True
            start += parameter.numel()

    def reduce(self, strategy: Any) -> None:
        """Take the mean over ranks, as data-parallel training does with the parameters' ``grad``."""
        self.rows = strategy.reduce(self.rows, reduce_op="mean")
        self._scales = strategy.reduce(self._scales, reduce_op="mean")
        self.complete = True

    @property
    def _scale(self) -> Tensor:
        return torch.where(self._scales[0] > 0, self._scales[0] / self._scales[1], 1.0)

    def norms(self) -> Tensor:
        """Return the Euclidean norms of the gradients as the step has them, without K / P, ``[K]``.

        With sums and counts in ``combine`` these are the gradients of the tasks' means over the step. With means that a
        task has in some micro-batches only, its share of the window's mean.
        """
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
        """Add the sum of the rows, each times its share ``[K]``, to the parameters' ``grad``.

        Nothing is added where a gradient is not finite: a gradient scaler has seen the same and skips the step.
        """
        finite = self.rows.isfinite().all()
        for (parameter, part), used in zip(self._combined(shares), self._used, strict=True):
            if used:
                added = torch.where(finite, part, 0.0)
                parameter.grad = added if parameter.grad is None else parameter.grad.add_(added)

    @torch.no_grad()
    def descend(self, shares: Tensor, lr: float) -> None:
        """Take a step of gradient descent on the sum of the tasks' losses, each times its share ``[K]``."""
        for parameter, part in self._combined(shares / self._scale.to(shares)):
            parameter.sub_(part, alpha=lr)
