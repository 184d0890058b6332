"""Cross-entropy straight from hidden states: the head runs chunk by chunk, and all logits at once never exist."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightning_coba.errors import UserError
from lightning_coba.functional.task_losses import TaskLosses, task_losses

#: Logits of one chunk, 32 MiB in float32: measured flat between 64 and 512 tokens of a 49,152-token vocabulary.
LOGITS_PER_CHUNK = 2**23


def tokens_per_chunk(vocabulary: int) -> int:
    """Return how many tokens' logits make a chunk, for a vocabulary of this size; at least 64.

    Example:
        >>> tokens_per_chunk(49152)
        170
    """
    return max(64, LOGITS_PER_CHUNK // vocabulary)


def chunked_task_losses(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    token_tasks: Tensor,
    num_tasks: int,
    chunk_size: int | None = None,
) -> TaskLosses:
    """Return per-task loss sums and counts through a frozen linear head, one chunk of logits at a time.

    The forward pass also forms each token's gradient with respect to its hidden state, unscaled, and keeps only that;
    a backward pass multiplies it by what arrives for the token's task. So any number of backward passes (one per task,
    with ``retain_graph``) costs one look at the vocabulary. Twice differentiable it is not.

    Under autocast the products are in its dtype; softmax, losses and sums are in float32 or wider.

    Args:
        hidden: shape ``[n, H]``, floating point.
        weight: of the head, ``[V, H]``; frozen.
        bias: of the head, ``[V]``, or None; frozen.
        targets: the tokens to predict, int64 ``[n]``.
        token_tasks: task index of each token, int64 ``[n]``.
        num_tasks: K.
        chunk_size: tokens at a time; default: :func:`tokens_per_chunk` of V.

    Returns:
        Sums ``[K]``, attached to ``hidden`` also where n = 0, and counts ``[K]``.

    Raises:
        ValueError: if weight or bias are to be trained here: see :func:`checkpointed_task_losses`.

    Example:
        >>> hidden = torch.zeros(3, 2, requires_grad=True)
        >>> tasks = torch.tensor([1, 1, 0])
        >>> losses = chunked_task_losses(hidden, torch.ones(4, 2), None, torch.tensor([0, 1, 3]), tasks, 2)
        >>> losses.sums  # log 4 a token
        tensor([1.3863, 2.7726], grad_fn=<SumBackward1>)
    """
    if torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad)):
        raise UserError(
            "`chunked_task_losses.weight` and `bias` must be frozen, since they get no gradient; got a tensor that "
            "requires one.",
            "Use checkpointed_task_losses, or detach them.",
        )
    with_gradient = torch.is_grad_enabled() and hidden.requires_grad
    size = chunk_size or tokens_per_chunk(weight.shape[0])
    losses = _FrozenHeadLosses.apply(hidden, weight, bias, targets, size, with_gradient)
    return task_losses(losses, token_tasks, num_tasks)


def checkpointed_task_losses(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    targets: Tensor,
    token_tasks: Tensor,
    num_tasks: int,
    chunk_size: int,
) -> TaskLosses:
    """Return per-task loss sums and counts through any head, trained or not, recomputing logits in the backward pass.

    For a head whose weights take part in the gradient: their gradient is a sum over tokens of all tasks, so it cannot
    be formed before the tasks' scales are known. A frozen linear head is faster in :func:`chunked_task_losses`.

    Args:
        head: hidden states ``[c, H]`` -> logits ``[c, V]``.
        hidden: shape ``[n, H]``, floating point.
        targets: the tokens to predict, int64 ``[n]``.
        token_tasks: task index of each token, int64 ``[n]``.
        num_tasks: K.
        chunk_size: tokens at a time.

    Example:
        >>> head, tasks = torch.nn.Linear(2, 4), torch.tensor([1, 1, 0])
        >>> checkpointed_task_losses(head, torch.zeros(3, 2), torch.tensor([0, 1, 3]), tasks, 2, 2).counts
        tensor([1, 2])
    """

    def token_losses(states: Tensor, tokens: Tensor) -> Tensor:
        logits = head(states)
        return F.cross_entropy(logits.to(_wide(logits.dtype)), tokens, reduction="none")

    # An empty tensor is one empty chunk: the head then still takes part, as DDP expects.
    chunks = zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True)
    losses = [checkpoint(token_losses, states, tokens, use_reentrant=False) for states, tokens in chunks]
    return task_losses(torch.cat(losses), token_tasks, num_tasks)


def autocast_once(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast as autocast does, where it is on; autocast itself casts a frozen weight anew for every product."""
    device = hidden.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


class _FrozenHeadLosses(torch.autograd.Function):
    """Losses ``[n]`` of hidden states ``[n, H]``; all work is done in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk_size: int,
        with_gradient: bool,
    ) -> Tensor:
        ctx.dtype = hidden.dtype
        hidden, weight, bias = autocast_once(hidden, weight, bias)
        losses = torch.empty(len(hidden), dtype=_wide(hidden.dtype), device=hidden.device)
        gradient = torch.empty_like(hidden) if with_gradient else None
        for start in range(0, len(hidden), chunk_size):
            rows = slice(start, start + chunk_size)
            logits = F.linear(hidden[rows], weight, bias).to(losses.dtype)
            losses[rows], residuals = _losses_and_residuals(logits, targets[rows])
            if gradient is not None:
                torch.mm(residuals.to(weight.dtype), weight, out=gradient[rows])
            del logits, residuals  # before the next chunk's logits come
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scales: Tensor) -> tuple[Tensor | None, ...]:
        [gradient] = ctx.saved_tensors
        return (gradient * scales[:, None]).to(ctx.dtype), None, None, None, None, None


def _losses_and_residuals(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into softmax minus one-hot in place, so that one chunk of logits is the peak."""
    targets = targets[:, None]
    largest = logits.amax(dim=1, keepdim=True)
    chosen = logits.gather(1, targets) - largest
    sums = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
    residuals = logits.div_(sums).scatter_add_(1, targets, -torch.ones_like(sums))
    return (sums.log() - chosen).squeeze(1), residuals


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
