import torch
from torch import Tensor

#: A vector joins the combination where that would lower the squared norm by more than this share.
TOLERANCE = 1e-14


def min_norm_point(gramian: Tensor, active: Tensor | None = None) -> Tensor:
    r"""Return the convex combination of K vectors that has the smallest norm: :math:`\min_\alpha \alpha^T G \alpha`.

    Args:
        gramian: inner products of the vectors, ``[K, K]``.
        active: bool ``[K]``: the vectors that take part, at least one; default: all.

    Returns:
        Coefficients on the simplex, float64 ``[K]`` on the CPU, 0 where not active. It waits for the device. The point
        is unique; the coefficients are not where vectors depend on each other.

    References:
        Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23: the active-set method for non-negative
        least squares, on the vectors with a 1 appended and the target (0, ..., 0, 1); exact after finitely many
        exchanges. Sener and Koltun, NeurIPS 2018, has the closed form for two vectors.

    Example:
        >>> min_norm_point(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        tensor([0.2000, 0.8000], dtype=torch.float64)
    """
    inner = gramian.detach().to("cpu", torch.float64)
    allowed = torch.ones(len(inner), dtype=torch.bool) if active is None else active.cpu()
    length = torch.where(allowed, inner.diagonal(), torch.inf).clamp(min=0).sqrt()
    if length.min() == 0:  # the origin is one of the vectors
        return (length == 0) / (length == 0).sum().double()
    # On unit vectors, whose appended 1 shrinks with their length: short vectors keep their digits beside long ones.
    target = length.min() / length
    system = torch.where(allowed & allowed[:, None], inner / length / length[:, None], 0.0) + target * target[:, None]
    solution, chosen = torch.zeros(len(inner), dtype=torch.float64), torch.zeros_like(allowed)
    for _ in range(3 * len(inner)):
        pull = torch.where(allowed & ~chosen, target - system @ solution, 0.0)
        if pull.max() <= TOLERANCE:
            break
        chosen[pull.argmax()] = True
        solution, chosen = _solve(system, target, solution, chosen)
    alpha = solution * target
    return alpha / alpha.sum()


def _solve(system: Tensor, target: Tensor, solution: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Solve for the chosen coefficients; those that would turn negative leave one by one."""
    while True:
        index = chosen.nonzero().squeeze(1)
        wanted = torch.zeros_like(solution)
        part, right = system[index][:, index], target[index, None]
        wanted[index] = torch.linalg.lstsq(part, right, driver="gelsd").solution.squeeze(1)
        negative = chosen & (wanted < 0)
        if not negative.any():
            return wanted, chosen
        share = torch.where(negative, solution / (solution - wanted), torch.inf)
        solution = solution + share.min() * (wanted - solution)
        chosen = chosen & (solution > 0) & (share > share.min())
        solution = torch.where(chosen, solution, 0.0)
