import torch
from torch import Tensor

#: Stop where no exchange between two vectors could lower the squared norm by more than this share of the largest one.
TOLERANCE = 1e-16
MAX_EXCHANGES = 1_000


def min_norm_point(gramian: Tensor, active: Tensor | None = None) -> Tensor:
    r"""Return the convex combination of K vectors that has the smallest norm: :math:`\min_\alpha \alpha^T G \alpha`.

    Args:
        gramian: inner products of the vectors, ``[K, K]``.
        active: bool ``[K]``: the vectors that take part, at least one; default: all.

    Returns:
        Coefficients on the simplex, float64 ``[K]`` on the CPU, 0 where not active. It waits for the device.

    References:
        Pairwise Frank-Wolfe: Lacoste-Julien and Jaggi, "On the Global Linear Convergence of Frank-Wolfe Optimization
        Variants", NeurIPS 2015. For two vectors it is the closed form of Sener and Koltun, NeurIPS 2018, after one
        exchange.

    Example:
        >>> min_norm_point(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        tensor([0.2000, 0.8000], dtype=torch.float64)
    """
    inner = gramian.detach().to("cpu", torch.float64)
    taking_part = torch.ones(len(inner), dtype=torch.bool) if active is None else active.cpu()
    scale = float(inner.diagonal().abs().max())
    alpha = taking_part.double() / taking_part.sum()
    for _ in range(MAX_EXCHANGES if scale > 0 else 0):
        slope = inner @ alpha
        to = int(torch.where(taking_part, slope, torch.inf).argmin())
        away = int(torch.where(alpha > 0, slope, -torch.inf).argmax())
        gap = float(slope[away] - slope[to])
        if gap <= TOLERANCE * scale:
            break
        curvature = float(inner[to, to] + inner[away, away] - 2 * inner[to, away])
        moved = min(float(alpha[away]), gap / curvature) if curvature > 0 else float(alpha[away])
        alpha[to] += moved
        alpha[away] = alpha[away] - moved if moved < alpha[away] else 0.0
    return alpha / alpha.sum()
