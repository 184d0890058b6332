import torch
from torch import Tensor


def adam_step(
    value: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    count: Tensor,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    active: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take one step of Adam as a pure function, each entry with its own step count.

    Balancers that descend on a few logits use it: ``torch.optim.Adam`` writes in place, and keeps its moments where a
    balancer's state does not.

    Args:
        value: what is optimised, ``[K]``.
        gradient: shape ``[K]``.
        exp_avg: first moments, ``[K]``, 0 before the first step.
        exp_avg_sq: second moments, ``[K]``, 0 before the first step.
        count: steps taken so far by each entry, ``[K]``.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the denominator.
        active: bool ``[K]``: the others stay as they are, moments and count included; default: all.

    Returns:
        Value, moments and count after the step; new tensors.

    References:
        Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015; same numbers as ``torch.optim.Adam``.

    Example:
        >>> zero = torch.zeros(2)
        >>> adam_step(torch.ones(2), torch.tensor([4.0, -0.5]), zero, zero, zero, lr=0.1)[0]
        tensor([0.9000, 1.1000])
    """
    moved = torch.ones_like(value, dtype=torch.bool) if active is None else active
    gradient = torch.where(moved, gradient, 0.0)
    new_avg = exp_avg.lerp(gradient, 1 - betas[0])
    new_avg_sq = exp_avg_sq * betas[1] + (1 - betas[1]) * gradient * gradient
    new_count = count + 1
    steps = new_count.to(value.dtype)
    step = lr / (1 - betas[0] ** steps)
    denominator = new_avg_sq.sqrt() / (1 - betas[1] ** steps).sqrt() + eps
    return (
        torch.where(moved, value - step * new_avg / denominator, value),
        torch.where(moved, new_avg, exp_avg),
        torch.where(moved, new_avg_sq, exp_avg_sq),
        torch.where(moved, new_count, count),
    )
